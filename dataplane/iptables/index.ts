// The project's own "node-iptables": rules as data, the text format both ways, and a driver.

export { canonicalRule, type RuleShape, shapeOf } from "./canonical.js";
export {
  Iptables,
  type IptablesDriver,
  type IptablesOptions,
  type Position,
  type Printout,
  type RestoreOptions,
} from "./driver.js";
export { RestoreError } from "./errors.js";
export { MemoryIptables } from "./memory.js";
export type { PacketCounters } from "./nfacct.js";
export { askNft } from "./nft-kernel.js";
export { chainsOf, ParseError, parseSave, ruleOfWords } from "./parse.js";
export { fixedPoint, probabilityText } from "./probability.js";
export {
  renderChainLine,
  renderRestore,
  renderRuleLine,
  renderRuleSpec,
  renderTables,
  type TableInput,
} from "./render.js";
export {
  BUILT_IN_CHAINS,
  type Chain,
  type ChainAt,
  type Counters,
  isBuiltIn,
  isTable,
  MAX_CHAIN_NAME,
  type Rule,
  type RuleAt,
  type Ruleset,
  TABLES,
  type TableName,
} from "./rules.js";
export { findTools, type Tools, type Variant, type VariantChoice } from "./variant.js";
export { quoteWord, splitWords } from "./words.js";
