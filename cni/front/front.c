// The front of our CNI plugins: hands a call to the running agent over its socket, and where none answers becomes the
// plugin itself, in Node. No libc, no memory but what is here: a process that starts in a fraction of a millisecond.
// Built by scripts/build-front.mjs; the name it is called by (kubeplumb-cni, kubeplumb-portmap) is the plugin's.
//
// Request: the net, mnt and pid namespaces as readlink has them, the plugin's name and each variable, every one ended by
// NUL; an empty one; then standard input as it is. KUBEPLUMB_STDERR says that an answer may have two parts. Answer: one
// byte, the exit code + '0', then the output; with a NUL behind it what belongs on stderr. An agent that is elsewhere
// closes without an answer.

#define NULL ((void *)0)
typedef unsigned long size;

enum { READ = 0, WRITE = 1, CLOSE = 3, LSEEK = 8, DUP2 = 33, SOCKET = 41, CONNECT = 42, SENDTO = 44, SHUTDOWN = 48,
  EXECVE = 59, EXIT = 60, READLINK = 89, MEMFD_CREATE = 319 };

static long call(long n, long a, long b, long c) {
  long out;
  register long flags __asm__("r10") = 0x4000; // MSG_NOSIGNAL, which only SENDTO looks at.
  register long to __asm__("r8") = 0, bytes __asm__("r9") = 0;
  __asm__ volatile("syscall" : "=a"(out) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(flags), "r"(to), "r"(bytes)
    : "rcx", "r11", "memory");
  return out;
}

enum { MOST = 1 << 20, HEAD = 1 << 16 };
static char head[HEAD];
static char input[MOST];
static char answer[MOST];
static char self[4096];

static size length(const char *text) {
  size n = 0;
  while (text[n]) n++;
  return n;
}

static int begins(const char *text, const char *with) {
  while (*with) if (*text++ != *with++) return 0;
  return 1;
}

static int all(int how, long fd, const char *data, size n) {
  while (n > 0) {
    long done = call(how, fd, (long)data, n);
    if (done <= 0) return 0;
    data += done;
    n -= done;
  }
  return 1;
}

// Reads to the end; -1 when it is too long or cannot be read.
static long rest(long fd, char *into, size room) {
  size have = 0;
  for (;;) {
    if (have == room) return -1;
    long got = call(READ, fd, (long)(into + have), room - have);
    if (got < 0) return -1;
    if (got == 0) return have;
    have += got;
  }
}

static size add(size at, const char *text, size n) {
  if (at + n + 1 > HEAD) return HEAD;
  for (size i = 0; i < n; i++) head[at + i] = text[i];
  head[at + n] = 0;
  return at + n + 1;
}

// Asks the agent; comes back only when it has not answered.
static void ask(const char *path, const char *name, char **env, size have) {
  struct { unsigned short family; char path[108]; } address = { 1, { 0 } };
  size n = length(path);
  if (n >= sizeof address.path) return;
  for (size i = 0; i < n; i++) address.path[i] = path[i];
  size at = 0;
  const char *spaces[] = { "/proc/self/ns/net", "/proc/self/ns/mnt", "/proc/self/ns/pid" };
  for (int i = 0; i < 3; i++) {
    char link[64];
    long got = call(READLINK, (long)spaces[i], (long)link, sizeof link);
    if (got <= 0) return;
    at = add(at, link, got);
  }
  at = add(at, name, length(name));
  const char *mark = "KUBEPLUMB_STDERR=1";
  at = add(at, mark, length(mark));
  for (; *env; env++) if (**env) at = add(at, *env, length(*env));
  at = add(at, "", 0);
  if (at >= HEAD) return;
  long fd = call(SOCKET, 1, 1 | 02000000, 0);
  if (fd < 0) return;
  if (call(CONNECT, fd, (long)&address, 2 + n + 1) == 0 && all(SENDTO, fd, head, at) && all(SENDTO, fd, input, have)) {
    call(SHUTDOWN, fd, 1, 0);
    long got = rest(fd, answer, MOST);
    if (got > 0) {
      long end = 1;
      while (end < got && answer[end]) end++;
      int written = all(WRITE, 1, answer + 1, end - 1);
      if (end < got) all(WRITE, 2, answer + end + 1, got - end - 1);
      call(EXIT, written ? answer[0] - '0' : 1, 0, 0);
    }
  }
  call(CLOSE, fd, 0, 0);
}

static void fail(const char *why) {
  const char *begin = "{\"cniVersion\":\"1.1.0\",\"code\":5,\"msg\":\"";
  all(WRITE, 1, begin, length(begin));
  all(WRITE, 1, why, length(why));
  all(WRITE, 1, "\"}\n", 3);
  call(EXIT, 1, 0, 0);
}

__attribute__((used, noreturn)) void start(long *stack) {
  long count = stack[0];
  char **argv = (char **)(stack + 1);
  char **env = argv + count + 1;
  const char *name = count > 0 ? argv[0] : "";
  for (const char *c = name; *c; c++) if (*c == '/') name = c + 1;
  const char *path = "/run/kubeplumb/cni.sock";
  for (char **e = env; *e; e++) if (begins(*e, "KUBEPLUMB_CNI_SOCKET=")) path = *e + 21;
  long have = rest(0, input, MOST);
  if (have < 0) fail("standard input cannot be read, or is longer than 1 MiB");
  ask(path, name, env, have);

  // Beside this program, under the name that it was called by.
  long n = call(READLINK, (long)"/proc/self/exe", (long)self, sizeof self - 64);
  while (n > 0 && self[n - 1] != '/') n--;
  size k = length(name);
  if (n <= 0 || k > 50) fail("the plugin's module cannot be found");
  for (size i = 0; i < k; i++) self[n + i] = name[i];
  const char *ending = ".mjs";
  for (size i = 0; i < 5; i++) self[n + k + i] = ending[i];
  long fd = call(MEMFD_CREATE, (long)"conf", 0, 0);
  if (fd < 0 || !all(WRITE, fd, input, have)) fail("no memory for the configuration");
  call(LSEEK, fd, 0, 0);
  call(DUP2, fd, 0, 0);
  call(CLOSE, fd, 0, 0);
  // By its first line, which says where Node is.
  char *args[] = { self, NULL };
  call(EXECVE, (long)self, (long)args, (long)env);
  fail("the plugin's module, beside the program, cannot be started");
  for (;;) {}
}

__asm__(".globl _start\n_start:\n xor %rbp,%rbp\n mov %rsp,%rdi\n and $-16,%rsp\n call start\n");
