// A Corefile's text as what it says: server blocks, and in them directives with arguments and blocks of their own.
// Pure; knows the syntax (Caddy's, as CoreDNS has it), no plugin.

/** What is wrong with a Corefile, worded as CoreDNS words it. */
export class CorefileError extends Error {
  override readonly name = "CorefileError";
}

/** One line: a word, what stands behind it, and the lines in its braces. */
export interface Directive {
  name: string;
  args: string[];
  block: Directive[];
  /** From 1. */
  line: number;
}

export interface ServerBlock {
  /** As written: ".:53", "example.org". */
  keys: string[];
  directives: Directive[];
  line: number;
}

interface Token {
  text: string;
  line: number;
}

/** Words, quoted or not, with the line that each stands on; a comment goes to the end of its line. */
function tokens(text: string, env: Readonly<Record<string, string>>): Token[] {
  const out: Token[] = [];
  const replaced = text.replace(/\{\$([A-Za-z_]\w*)\}/g, (_all, name: string) => env[name] ?? "");
  for (const [index, line] of replaced.split("\n").entries()) {
    for (const [word, quoted] of line.matchAll(/"((?:[^"\\]|\\.)*)"|#.*|\S+/g)) {
      if (word.startsWith("#")) break;
      out.push({ text: quoted?.replace(/\\(.)/g, "$1") ?? word, line: index + 1 });
    }
  }
  return out;
}

class Parser {
  readonly #tokens: Token[];
  readonly #file: string;
  #at = 0;

  constructor(tokens: Token[], file: string) {
    this.#tokens = tokens;
    this.#file = file;
  }

  get #next(): Token | undefined {
    return this.#tokens[this.#at];
  }

  #fail(line: number, message: string): CorefileError {
    return new CorefileError(`${this.#file}:${line} - Error during parsing: ${message}`);
  }

  serverBlocks(): ServerBlock[] {
    const out: ServerBlock[] = [];
    while (this.#next) {
      const { line } = this.#next;
      const keys: string[] = [];
      while (this.#next && this.#next.text !== "{") {
        if (this.#next.text === "}") throw this.#fail(this.#next.line, "Unexpected '}'");
        keys.push(...this.#take().text.split(",").filter(Boolean));
      }
      if (!this.#next) throw this.#fail(line, "Unexpected EOF, expecting '{'");
      out.push({ keys, directives: this.#block(), line });
    }
    return out;
  }

  #take(): Token {
    return this.#tokens[this.#at++] as Token;
  }

  /** From its "{" to its "}". */
  #block(): Directive[] {
    const open = this.#take();
    const out: Directive[] = [];
    for (;;) {
      const token = this.#next;
      if (!token) throw this.#fail(this.#tokens.at(-1)?.line ?? open.line, "Unexpected EOF, expecting '}'");
      this.#at++;
      if (token.text === "}") return out;
      if (token.text === "{") throw this.#fail(token.line, "Unexpected '{'");
      out.push(this.#directive(token));
    }
  }

  #directive({ text: name, line }: Token): Directive {
    const args: string[] = [];
    let block: Directive[] = [];
    while (this.#next?.line === line && this.#next.text !== "}") {
      if (this.#next.text === "{") {
        block = this.#block();
        break;
      }
      args.push(this.#take().text);
    }
    return { name, args, block, line };
  }
}

/**
 * Reads a Corefile. `{$NAME}` is the value of an environment variable.
 * @param file How errors call it.
 * @throws CorefileError
 */
export function parseCorefile(
  text: string,
  file: string,
  env: Readonly<Record<string, string>> = {},
): ServerBlock[] {
  return new Parser(tokens(text, env), file).serverBlocks();
}
