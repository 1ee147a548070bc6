// Words of one line of iptables-save text: splitting with its quoting rules, and the way back.
// Knows quotes and backslashes, nothing of what the words mean.

/**
 * Splits a line as iptables-restore does: blanks separate, `"` opens a word in which a backslash takes the next
 * character literally and blanks are ordinary; the closing quote ends the word.
 * @throws SyntaxError for a quote that is never closed.
 */
export function splitWords(line: string): string[] {
  if (!line.includes('"')) return line.split(/[ \t]+/).filter(Boolean);
  const words: string[] = [];
  let word = "";
  let quoted = false;
  for (let i = 0; i < line.length; i++) {
    const char = line.charAt(i);
    if (quoted) {
      if (char === "\\" && i + 1 < line.length) word += line.charAt(++i);
      else if (char === '"') {
        quoted = false;
        words.push(word);
        word = "";
      } else word += char;
    } else if (char === '"') quoted = true;
    else if (char === " " || char === "\t") {
      if (word) words.push(word);
      word = "";
    } else word += char;
  }
  if (quoted) throw new SyntaxError(`unclosed quote in ${JSON.stringify(line)}`);
  if (word) words.push(word);
  return words;
}

// What needs no quotes: everything that the splitter passes through and no shell-minded reader stumbles over.
const PLAIN = /^[A-Za-z0-9_./:,@%+=![\]-]+$/;

/**
 * One word for the text, quoted only when it must be.
 * @throws RangeError for an empty word or one with a line break, which the format cannot carry.
 */
export function quoteWord(word: string): string {
  if (PLAIN.test(word)) return word;
  if (word === "" || /[\n\r\0]/.test(word)) {
    throw new RangeError(`an iptables argument must be one non-empty line: ${JSON.stringify(word)}`);
  }
  return quoted(word);
}

/** Options whose value iptables-save quotes more often than it must. */
const STRING_OPTIONS: ReadonlySet<string> = new Set(["--comment", "--nfacct-name"]);

/** Words of a rule as iptables-save prints them (xtables_save_string). Throws as {@link quoteWord}. */
export function printWords(words: readonly string[]): string {
  return words
    .map((word, i) => {
      const text = quoteWord(word);
      return text === word && STRING_OPTIONS.has(words[i - 1] ?? "") && /[^\w-]/.test(word)
        ? quoted(word)
        : text;
    })
    .join(" ");
}

function quoted(word: string): string {
  return `"${word.replace(/["'\\]/g, "\\$&")}"`;
}
