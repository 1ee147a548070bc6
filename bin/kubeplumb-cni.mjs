#!/usr/bin/env node
// The CNI plugin as an executable: put a link to this file into /opt/cni/bin.
import { runProcess } from "../dist/cni/main.js";

await runProcess();
