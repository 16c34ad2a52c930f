/** One file per task: raw outputs of a graph become results. */

import type { Contract } from "../bundle/manifest.js";
import { ContractError, choices } from "../errors.js";
import { Classify } from "./classify.js";
import { Detect, type Task } from "./detect.js";
import { Oriented } from "./obb.js";
import { Embed } from "./embed.js";
import { Pose } from "./pose.js";
import { Segment } from "./segment.js";
import { Semantic } from "./semantic.js";

const TASKS: Readonly<Record<string, new (contract: Contract) => Task>> = {
  classify: Classify,
  detect: Detect,
  embed: Embed,
  obb: Oriented,
  pose: Pose,
  segment: Segment,
  semantic: Semantic,
};

/** The task of a contract. Throws ContractError: unknown task or decoder, or numbers that do not fit. */
export function openTask(contract: Contract): Task {
  if (!Object.hasOwn(TASKS, contract.task)) throw new ContractError(`task ${choices(contract.task, Object.keys(TASKS))}`);
  return new TASKS[contract.task]!(contract);
}
