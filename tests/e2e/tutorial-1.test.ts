// Every third chapter of the tutorials; how they are run is in the helper.

import { runTutorials } from "../helpers/tutorial-run.js";

runTutorials(0, 3);
