// Straight-line programs, and the operands of applications (3 §4).
import { Instruction, worked } from "./hardware.js";
import { Link } from "./link.js";
import { Node } from "./model.js";
import { Half } from "./pairs.js";
import { Answer } from "./peer.js";
import { Code, Fields, Message } from "./wire.js";

const MAX_QUBITS_PER_APPLICATION = 256;
const TWO = ["cx", "cz", "swap"];

/** A qubit that an application calls by a name. */
export interface Operand {
  qubit: string;
  inUse: boolean;
  /** The nodes that may open gates on it; every neighbour may when it is nil. */
  gatesWith: string[] | null;
}

type Trouble = [Code, string];

export class Programs {
  private readonly operands = new Map<string, Map<string, Operand>>();

  constructor(
    private readonly node: Node,
    private readonly links: Map<string, Link>,
  ) {}

  of(application: string): Map<string, Operand> {
    let operands = this.operands.get(application);
    if (!operands) this.operands.set(application, (operands = new Map()));
    return operands;
  }

  /** An application's pair at this node, by its id. */
  half(application: string, id: string): Half | undefined {
    for (const link of this.links.values()) {
      const half = link.pairs.halves.get(id);
      if (half && half.told && half.request.application === application) return half;
    }
    return undefined;
  }

  run(application: string, message: Message, answer: Answer): void {
    for (const step of message.steps) {
      const trouble = shape(step);
      if (trouble) return answer.refuse("UNSUPP", trouble, "3 §4");
    }
    if (!this.node.hardware.connected) return answer.refuse("BACKEND", "the hardware is not connected", "3 §4");
    const batch: Instruction[] = [];
    const qubits: string[] = [];
    const given: string[] = [];
    for (const step of message.steps) {
      const trouble = this.step(application, step, batch, qubits, given);
      if (!trouble) continue;
      for (const qubit of given) this.node.hardware.give(qubit);
      return answer.refuse(...trouble, "3 §4");
    }
    this.node.hardware.submit(batch, (completions) => {
      const bits = completions.filter((each) => each.type === "measured").map((each) => each.bit);
      if (worked(completions)) answer.ok("program.result", { bits, qubits });
      else answer.refuse("BACKEND", String(completions.find((each) => each.type === "failed")?.text), "3 §4");
    });
    for (const qubit of given) this.node.hardware.freed(qubit);
  }

  private step(
    application: string,
    step: Fields,
    batch: Instruction[],
    qubits: string[],
    given: string[],
  ): Trouble | undefined {
    const operands = this.of(application);
    if (step.kind === "initialise") {
      const operand = this.initialised(operands, step);
      if ("trouble" in operand) return operand.trouble;
      qubits.push(operand.qubit);
      batch.push({ type: "initialise", qubit: operand.qubit });
      return undefined;
    }
    const found: string[] = [];
    for (const name of step.qubits) {
      const operand = operands.get(name) ?? this.consumed(application, name);
      if ("trouble" in operand) return operand.trouble;
      if (operand.inUse) return ["NORES", `${name} is in use by a gate`];
      found.push(operand.qubit);
    }
    if (step.kind === "apply") batch.push({ type: "apply", gate: step.gate, qubits: found, angle: step.angle });
    else batch.push({ type: step.kind === "measure" ? "measure" : "discard", qubit: found[0] });
    if (step.kind === "release") {
      operands.delete(step.qubits[0]);
      given.push(found[0]);
    }
    return undefined;
  }

  private initialised(operands: Map<string, Operand>, step: Fields): Operand | { trouble: Trouble } {
    const [name] = step.qubits;
    const known = operands.get(name);
    if (known?.inUse) return { trouble: ["NORES", `${name} is in use by a gate`] };
    if (known) {
      known.gatesWith = step.gates_with;
      return known;
    }
    const kind = step.reference ? "reference" : "storage";
    if (this.node.hardware.freeOf(kind) === 0) return { trouble: ["NORES", `no ${kind} qubit is free`] };
    if (operands.size >= MAX_QUBITS_PER_APPLICATION)
      return { trouble: ["LIMIT", `${MAX_QUBITS_PER_APPLICATION} qubits are held`] };
    const operand = { qubit: this.node.hardware.take(kind) as string, inUse: false, gatesWith: step.gates_with };
    operands.set(name, operand);
    return operand;
  }

  /** Make a qubit like others of a pair's half. */
  private consumed(application: string, id: string): Operand | { trouble: Trouble } {
    const half = this.half(application, id);
    if (!half || half.state === "CONSUMED") return { trouble: ["UNKNOWN_ID", `there is no ${id.slice(0, 64)}`] };
    if (half.state !== "CONFIRMED") return { trouble: ["NORES", `${id} is in use by a gate`] };
    if (this.of(application).size >= MAX_QUBITS_PER_APPLICATION)
      return { trouble: ["LIMIT", `${MAX_QUBITS_PER_APPLICATION} qubits are held`] };
    half.pairs.consume(half);
    const operand = { qubit: half.qubit, inUse: false, gatesWith: null };
    this.of(application).set(id, operand);
    return operand;
  }

  /** Give back what an application that is gone has held; what a gate uses, the gate gives back. */
  lost(application: string): void {
    const operands = this.operands.get(application);
    this.operands.delete(application);
    for (const operand of operands?.values() ?? []) if (!operand.inUse) this.node.hardware.give(operand.qubit);
  }

  /** Whether an operand is its application's still. */
  owns(application: string, operand: Operand): boolean {
    return [...(this.operands.get(application)?.values() ?? [])].includes(operand);
  }

  hardwareLost(): void {
    this.operands.clear();
  }
}

function shape(step: Fields): string | undefined {
  if (step.kind === "apply" && step.gate === null) return "apply needs a gate";
  if (!Number.isFinite(step.angle)) return "the angle is not finite";
  const wants = step.kind === "apply" && TWO.includes(step.gate) ? 2 : 1;
  if (step.qubits.length !== wants) return `${step.kind} takes ${wants} operands`;
  return new Set(step.qubits).size < wants ? "the same operand twice" : undefined;
}
