// What servers ask of V8: threads by cores, and functions compiled at their first call.

import { setFlagsFromString } from "node:v8";
import { runInThisContext } from "node:vm";
import t from "tap";
import { compileAtFirstCall, serverFlags } from "../../common/v8.js";

t.test("V8's threads leave a core to the main thread, as far as there are cores", async (t) => {
  const wanted: [number, number][] = [
    [1, 1],
    [2, 1],
    [3, 2],
    [5, 4],
    [64, 4],
  ];
  for (const [cores, threads] of wanted)
    t.same(serverFlags(cores), [`--v8-pool-size=${threads}`], `${cores} cores`);
});

t.test("a function that is called once is compiled, and was interpreted before", async (t) => {
  setFlagsFromString("--allow-natives-syntax");
  // Another text each time: V8 knows again what it has compiled.
  const isCompiled = (number: number): boolean =>
    runInThisContext(`(() => { const f = () => ${number}; f(); return %ActiveTierIsSparkplug(f); })()`);
  t.equal(isCompiled(1), false);
  compileAtFirstCall();
  t.equal(isCompiled(2), true);
});
