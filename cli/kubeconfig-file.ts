// Puts a context into the user's kubeconfig and takes it out again, by the rules of kubectl and kind: which file of
// the list, a lock file, one atomic write, everything else left as it is. Knows the file format, no cluster.

import {
  chownSync,
  closeSync,
  existsSync,
  fsyncSync,
  lstatSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import { delimiter, dirname, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Document, isMap, isScalar, isSeq, LineCounter, parseAllDocuments, type YAMLMap } from "yaml";
import { makeDirectory } from "../lab/files.js";

const LISTS = [
  ["clusters", "cluster"],
  ["contexts", "context"],
  ["users", "user"],
] as const;

/** How long another writer is waited for; clientcmd holds its lock for milliseconds. */
const LOCK_TIMEOUT_MS = 10_000;
const LOCK_PAUSE_MS = 50;

/** What {@link mergeContext} has done; full paths. */
export interface Merged {
  /** Files that were written. */
  changed: string[];
  /** Files and directories that were not there before, a directory before what is in it. */
  made: string[];
}

/** A kubeconfig file as it was read, with the document in which it is changed. */
interface LoadedFile {
  path: string;
  text: string;
  document: Document;
  changed: boolean;
}

/**
 * The files that count: `explicit` alone, else the list in $KUBECONFIG, else ~/.kube/config. Empty parts of the
 * list are left out, doubles too (clientcmd's ClientConfigLoadingRules).
 */
export function kubeconfigFiles(env: NodeJS.ProcessEnv, explicit?: string): string[] {
  if (explicit) return [resolve(explicit)];
  const listed = (env.KUBECONFIG ?? "").split(delimiter).filter((path) => path !== "");
  if (listed.length > 0) return [...new Set(listed.map((path) => resolve(path)))];
  return [join(env.HOME || homedir(), ".kube", "config")];
}

/** @throws Error naming file and line when one that exists cannot be read or understood. Changes nothing. */
export function checkKubeconfigFiles(files: readonly string[]): void {
  for (const path of files) load(path);
}

/**
 * Puts `context` of the kubeconfig text `source`, with its cluster and user, into the first file that has an entry
 * of that name, else the first that exists, else the last of the list (as kubectl and kind do), and makes it the
 * current one. Cluster and user get the context's name.
 * @throws Error when a file is malformed, locked for 10 s or cannot be written; then nothing has changed in it.
 */
export async function mergeContext(
  files: readonly string[],
  source: string,
  context: string,
): Promise<Merged> {
  const entries = entriesOf(source, context);
  return await withLocks(files, (made) => {
    const loaded = files.map(load);
    const present = files.filter((path) => existsSync(path));
    const target = loaded.find(({ path }) => present.includes(path)) ?? loaded.at(-1);
    if (!target) throw new Error("no kubeconfig file to write to");
    for (const [list, kind] of LISTS) {
      const owner = loaded.find((file) => findEntry(file.document, list, context)) ?? target;
      setEntry(owner, list, kind, context, entries[kind]);
    }
    // Of several files the first that names a current context decides.
    const decides = loaded.find((file) => currentContext(file.document)) ?? target;
    setCurrentContext(decides, context);
    const changed = save(loaded);
    return { changed, made: [...made, ...changed.filter((path) => !present.includes(path))] };
  });
}

/**
 * Takes the context, cluster and user of that name out of all the files, and the current context when it is the
 * same. Files that do not name them are not touched. What we have `made` goes as well when nothing is left in it.
 * Returns the files that were changed.
 * @throws as {@link mergeContext}.
 */
export async function removeContext(
  files: readonly string[],
  context: string,
  made: readonly string[] = [],
): Promise<string[]> {
  const existing = files.filter((path) => existsSync(path));
  const concerned = existing.filter((path) => made.includes(path) || mentions(load(path).document, context));
  if (concerned.length === 0) return [];
  const changed = await withLocks(concerned, () => {
    const loaded = concerned.map(load);
    for (const file of loaded) {
      const { document } = file;
      file.changed = mentions(document, context);
      for (const [list] of LISTS) {
        const entries = document.get(list);
        if (isSeq(entries)) entries.items = entries.items.filter((item) => !isNamed(item, context));
      }
      if (currentContext(document) === context) setCurrentContext(file, "");
    }
    const written = save(loaded);
    for (const file of loaded) if (made.includes(file.path) && isBare(file)) rmSync(file.path);
    return written;
  });
  // The locks lay in them until now.
  for (const path of made.toReversed()) removeEmptyDirectory(path);
  return changed;
}

/** Whether a regular file says nothing: neither entries nor settings nor comments. */
function isBare({ path, document }: LoadedFile): boolean {
  const { apiVersion, kind, preferences, "current-context": current, ...rest } = document.toJS();
  const isEmpty = (value: unknown) => !value || Object.keys(value).length === 0;
  return (
    lstatSync(path).isFile() &&
    !current &&
    [preferences, ...Object.values(rest)].every(isEmpty) &&
    !/^\s*#/m.test(readFileSync(path, "utf8"))
  );
}

function removeEmptyDirectory(path: string): void {
  try {
    rmdirSync(path);
  } catch (error) {
    // Somebody else's things are in it, it is gone, or it is no directory.
    if (!hasCode(error, "ENOTEMPTY", "ENOENT", "ENOTDIR")) throw error;
  }
}

function entriesOf(source: string, context: string): Record<"cluster" | "context" | "user", unknown> {
  const { document } = parse("the cluster's kubeconfig", source);
  const body = (list: string, kind: string, name: string): unknown => {
    const entry = findEntry(document, list, name)?.get(kind);
    if (!entry) throw new Error(`the cluster's kubeconfig has no ${kind} ${JSON.stringify(name)}`);
    return isMap(entry) ? entry.toJS(document) : entry;
  };
  const found = body("contexts", "context", context) as { cluster?: string; user?: string };
  return {
    cluster: body("clusters", "cluster", found.cluster ?? context),
    user: body("users", "user", found.user ?? context),
    context: { ...found, cluster: context, user: context },
  };
}

function load(path: string): LoadedFile {
  let text = "";
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if (!hasCode(error, "ENOENT"))
      throw new Error(`kubeconfig ${path} cannot be read: ${String(error)}`, { cause: error });
  }
  return parse(path, text);
}

function parse(path: string, text: string): LoadedFile {
  const lines = new LineCounter();
  const documents = parseAllDocuments(text, { lineCounter: lines, prettyErrors: false });
  if ("empty" in documents) return { path, text, document: emptyConfig(documents), changed: false };
  const [document] = documents;
  if (!document || documents.length > 1) throw new Error(`${path}: one YAML document is expected`);
  const problem = document.errors[0];
  if (problem) {
    throw new Error(`${path}: line ${lines.linePos(problem.pos[0]).line}: ${problem.message}`);
  }
  if (document.contents === null) return { path, text, document: emptyConfig(document), changed: false };
  if (!isMap(document.contents))
    throw new Error(`${path} is no kubeconfig: a mapping is expected at its top`);
  for (const [list] of LISTS) {
    const value = document.get(list);
    if (value !== undefined && value !== null && !isSeq(value)) {
      throw new Error(`${path}: ${list} is not a list`);
    }
  }
  return { path, text, document: document as Document, changed: false };
}

/** Comments of a file that has nothing else stay. */
function emptyConfig(document: unknown): Document {
  const config = parseAllDocuments("apiVersion: v1\nkind: Config\n")[0] as Document;
  const comment = typeof document === "object" && document && "comment" in document ? document.comment : null;
  if (typeof comment === "string") config.commentBefore = comment;
  return config;
}

function isNamed(item: unknown, name: string): item is YAMLMap {
  return isMap(item) && item.get("name") === name;
}

function findEntry(document: Document, list: string, name: string): YAMLMap | undefined {
  const entries = document.get(list);
  return isSeq(entries) ? entries.items.find((item): item is YAMLMap => isNamed(item, name)) : undefined;
}

function currentContext(document: Document): string | undefined {
  const value = document.get("current-context");
  return typeof value === "string" && value ? value : undefined;
}

/** The comment beside it stays; the quotes of an empty value do not. */
function setCurrentContext(file: LoadedFile, name: string): void {
  const node = file.document.get("current-context", true);
  if (isScalar(node)) {
    node.value = name;
    node.type = undefined;
  } else {
    file.document.set("current-context", name);
  }
  file.changed = true;
}

function mentions(document: Document, name: string): boolean {
  return (
    currentContext(document) === name || LISTS.some(([list]) => findEntry(document, list, name) !== undefined)
  );
}

function setEntry(file: LoadedFile, list: string, kind: string, name: string, body: unknown): void {
  const { document } = file;
  file.changed = true;
  const present = findEntry(document, list, name);
  if (present) {
    present.set(kind, document.createNode(body));
    return;
  }
  const entries = document.get(list);
  if (!isSeq(entries) || entries.items.length === 0) {
    // An empty list may be written as [] or null: begin a new one, in the style of the file.
    document.set(list, document.createNode([{ [kind]: body, name }]));
    return;
  }
  entries.items.push(document.createNode({ [kind]: body, name }));
}

/** Writes what has changed; one file after the other, each in one step. */
function save(files: readonly LoadedFile[]): string[] {
  const written: string[] = [];
  for (const { path, text, document, changed } of files) {
    if (!changed) continue;
    // kubectl writes lists without indentation; whoever indents them, or writes { a: b }, keeps it.
    const indentSeq = /^(clusters|contexts|users):\s*\n\s+-/m.test(text);
    const flowCollectionPadding = /[{[] \S/.test(text);
    const now = document.toString({ lineWidth: 0, indentSeq, flowCollectionPadding });
    if (now === text) continue;
    writeAtomically(path, now);
    written.push(path);
  }
  return written;
}

/** A reader sees the old file or the new one. A symbolic link stays one; mode 0600, for there are keys inside. */
function writeAtomically(path: string, text: string): void {
  const real = existsSync(path) ? realpathSync(path) : path;
  const draft = `${real}.${process.pid}.tmp`;
  try {
    const fd = openSync(draft, "wx", 0o600);
    try {
      writeFileSync(fd, text);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    if (existsSync(real)) {
      const { uid, gid } = statSync(real);
      // root (through sudo, say) must not take a user's file away.
      if (process.getuid?.() === 0) chownSync(draft, uid, gid);
    }
    renameSync(draft, real);
  } catch (error) {
    rmSync(draft, { force: true });
    throw error;
  }
}

/**
 * Holds FILE.lock, created exclusively, for each of the files: clientcmd's lock, so kubectl and kind respect it.
 * Taken in sorted order, hence no deadlock.
 */
async function withLocks<T>(files: readonly string[], work: (made: string[]) => T): Promise<T> {
  const held: string[] = [];
  const made: string[] = [];
  try {
    for (const path of [...files].sort()) {
      const lock = `${path}.lock`;
      made.push(...makeDirectory(dirname(path)));
      await acquire(lock);
      held.push(lock);
    }
    return work(made);
  } finally {
    for (const lock of held) rmSync(lock, { force: true });
  }
}

async function acquire(lock: string): Promise<void> {
  const deadline = performance.now() + LOCK_TIMEOUT_MS;
  for (;;) {
    try {
      closeSync(openSync(lock, "wx", 0o600));
      return;
    } catch (error) {
      if (!hasCode(error, "EEXIST")) throw error;
    }
    if (performance.now() > deadline) {
      throw new Error(`${lock} exists for more than 10 s; if no kubectl or kind is at work, remove it`);
    }
    await sleep(LOCK_PAUSE_MS);
  }
}

function hasCode(error: unknown, ...codes: string[]): boolean {
  return error instanceof Error && "code" in error && codes.includes(String(error.code));
}
