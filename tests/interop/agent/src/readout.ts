// What halves of type M are measured in (2 §4.6).
import { Instruction } from "./hardware.js";
import { Fields } from "./wire.js";

/** Whether the fields of a readout fit together (2 §4.6). */
export function fits({ bases, weights, rotation }: Fields): boolean {
  if (new Set(bases).size !== bases.length) return false;
  if (weights.length > 0 && (weights.length !== bases.length || weights.every((each: number) => each === 0))) return false;
  return rotation.length === (bases.includes("rotated") ? 3 : 0);
}

/** One of the bases, drawn by their odds. */
export function draw({ bases, weights }: Fields): string {
  const odds: number[] = weights.length > 0 ? weights : bases.map(() => 1);
  let left = Math.random() * odds.reduce((sum, each) => sum + each, 0);
  return bases[odds.findIndex((each) => (left -= each) < 0)];
}

/** What turns a basis into the computational one (2 §4.6). */
export function turned(basis: string, rotation: number[], qubit: string): Instruction[] {
  const apply = (gate: string, angle = 0): Instruction => ({ type: "apply", gate, qubits: [qubit], angle });
  switch (basis) {
    case "x":
      return [apply("h")];
    case "y":
      return [apply("sdg"), apply("h")];
    case "z+pi/4":
      return [apply("ry", -Math.PI / 4)];
    case "z-pi/4":
      return [apply("ry", Math.PI / 4)];
    case "rotated":
      return [apply("rx", -rotation[2]), apply("ry", -rotation[1]), apply("rx", -rotation[0])];
    default:
      return [];
  }
}
