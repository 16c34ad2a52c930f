/** One file per family of heads. Importing this registers all of them. */

import "./anchor_free.js";
import "./anchors.js";
import "./centernet.js";
import "./classes.js";
import "./decoded.js";
import "./distances.js";
import "./fastestdet.js";
import "./grid.js";
import "./heatmaps.js";
import "./keypoints.js";
import "./movenet.js";
import "./queries.js";
import "./semantic.js";
import "./simcc.js";
import "./ssd.js";
import "./vectors.js";

export * from "./base.js";
export { checkFinite } from "./arithmetic.js";
