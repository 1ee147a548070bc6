#!/usr/bin/env node
// The CNI plugin for host ports as an executable: put a link to this file into /opt/cni/bin.
import { runProcess } from "../dist/cni/main.js";

await runProcess("kubeplumb-portmap");
