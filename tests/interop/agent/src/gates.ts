// Teleported gates (3 §2, §3).
import { Timer } from "./driver.js";
import { Completion, Instruction, worked } from "./hardware.js";
import { Link } from "./link.js";
import { Node } from "./model.js";
import { Half } from "./pairs.js";
import { Operand, Programs } from "./programs.js";
import { Answer, Loss } from "./peer.js";
import { Code, Fields, Message } from "./wire.js";

const MAX_GATES = 1024;
const UNSETTLED: readonly Code[] = ["TIMEOUT", "PEER_LOST", "LIMIT", "EXPIRE"];

type State =
  | "PAIRING"
  | "OPENING"
  | "PREPARED"
  | "ACTING"
  | "AWAITING"
  | "CORRECTING"
  | "CLOSING"
  | "DONE"
  | "FAILED"
  | "INDETERMINATE";

class Gate {
  state: State;
  half?: Half;
  deadline: bigint;
  timer?: Timer;
  bits?: number[];
  outcome?: { bits: number[]; answer: Answer };
  peerDone = false;
  /** Whether its operand is in use by it still. */
  locked = true;
  answer?: Answer;

  constructor(
    readonly id: string,
    readonly source: boolean,
    readonly kind: string,
    readonly variant: string,
    readonly peer: string,
    readonly application: string,
    readonly operand: Operand,
    deadline: bigint,
  ) {
    this.state = source ? "PAIRING" : "PREPARED";
    this.deadline = deadline;
    operand.inUse = true;
  }

  get symmetric(): boolean {
    return this.kind !== "state" && this.variant === "symmetric";
  }

  /** How many bits the other end sends. */
  get expects(): number {
    if (this.kind === "state") return this.source ? 0 : 2;
    return 1;
  }

  get sends(): boolean {
    return this.source || this.kind !== "state";
  }
}

const apply = (gate: string, ...qubits: string[]): Instruction => ({ type: "apply", gate, qubits, angle: 0 });
const measure = (qubit: string): Instruction => ({ type: "measure", qubit });
const when = (bit: boolean, ...then: Instruction[]): Instruction[] => (bit ? then : []);

/** What an end does first (3 §3); its half is discarded after it. */
function acts(gate: Gate, half: Half): Instruction[] {
  const { qubit: q } = gate.operand;
  const { qubit: e, x, z } = half;
  const bits = gate.outcome?.bits ?? [];
  if (gate.kind === "state") {
    if (gate.source) return [apply("cx", q, e), apply("h", q), measure(q), measure(e)];
    return [apply("swap", e, q), ...when((bits[1] === 1) !== x, apply("x", q)), ...when((bits[0] === 1) !== z, apply("z", q))];
  }
  if (gate.symmetric) {
    if (gate.source) return [apply("cz", q, e), apply("h", e), measure(e)];
    return [...when(gate.kind === "cnot", apply("h", q)), apply("h", e), apply("cz", e, q), apply("h", e), measure(e)];
  }
  if (gate.source) return [apply("cx", q, e), measure(e)];
  return [
    ...when((bits[0] === 1) !== x, apply("x", e)),
    apply(gate.kind === "cz" ? "cz" : "cx", e, q),
    apply("h", e),
    measure(e),
  ];
}

/** What an end does with the other's bits after it has acted. */
function corrects(gate: Gate, half: Half): Instruction[] {
  const { qubit: q } = gate.operand;
  const [bit] = gate.outcome?.bits ?? [];
  if (gate.symmetric) {
    if (gate.source) return when((bit === 1) !== half.x, apply("z", q));
    return [...when((bit === 1) !== half.z, apply("z", q)), ...when(gate.kind === "cnot", apply("h", q))];
  }
  return gate.source && gate.kind !== "state" ? when((bit === 1) !== half.z, apply("z", q)) : [];
}

export class Gates {
  private readonly gates = new Map<string, Gate>();
  private count = 0;

  constructor(
    private readonly node: Node,
    private readonly links: Map<string, Link>,
    private readonly programs: Programs,
  ) {}

  // The source.

  request(application: string, message: Message, answer: Answer): void {
    const no = (code: Code, text: string) => answer.refuse(code, text, "3 §2.1");
    const { driver, epoch, name } = this.node;
    if (this.gates.size >= MAX_GATES) return no("LIMIT", `${MAX_GATES} gates are under way`);
    const pair = message.pair_id;
    if (pair && (message.qubit === pair || message.peer_qubit === pair))
      return no("UNSUPP", "a gate acts over a pair, and not on it");
    const link = [...this.links.values()].find((each) => each.settings.peer === message.peer);
    if (!link) return no("UNSUPP", `there is no link to ${message.peer}`);
    const half = message.pair_id ? this.programs.half(application, message.pair_id) : undefined;
    if (message.pair_id && (!half || half.state === "CONSUMED" || half.pairs.settings.peer !== message.peer))
      return no("UNKNOWN_ID", "there is no such pair");
    if (half && half.state !== "CONFIRMED") return no("NORES", "the pair is in use");
    const operand = this.programs.of(application).get(message.qubit);
    if (!operand) return no("UNKNOWN_ID", `there is no qubit ${message.qubit}`);
    if (operand.inUse) return no("NORES", `${message.qubit} is in use`);
    const wanted = {
      number: 1,
      min_fidelity: message.min_fidelity,
      purpose_id: 1,
      priority: 0,
      request_type: "K",
      atomic: false,
      consecutive: false,
      local: { bases: ["z"], weights: [], rotation: [] },
      remote: { bases: ["z"], weights: [], rotation: [] },
    };
    const refused = half ? undefined : link.refusal(wanted, message.max_time_ns);
    if (refused) return no(...refused);
    this.count += 1;
    const id = `${name}-${epoch.toString(16)}-${this.count}`;
    const deadline = driver.networkNow + message.max_time_ns;
    const gate = new Gate(id, true, message.kind, message.variant, message.peer, application, operand, deadline);
    gate.answer = answer;
    this.gates.set(id, gate);
    if (half) return this.open(gate, half, message.peer_qubit);
    link.create(wanted, deadline, "", {
      pair: (made) => this.open(gate, made, message.peer_qubit),
      failed: (code, text) => this.end(gate, "FAILED", code, text),
    });
  }

  private open(gate: Gate, half: Half, qubit: string): void {
    const { driver, endpoint } = this.node;
    gate.state = "OPENING";
    this.reserve(gate, half);
    const fields = {
      gate_id: gate.id,
      pair_id: half.id,
      kind: gate.kind,
      variant: gate.variant,
      application: gate.application,
      qubit,
      deadline_ns: gate.deadline,
    };
    endpoint.ask(gate.peer, "gate.open", fields, this.local(gate), (reply) => {
      if (gate.state !== "OPENING") return;
      if (reply.type === "gate.ready") this.act(gate);
      else if (UNSETTLED.includes(reply.code)) this.lose(gate, reply.code, reply.text);
      else this.end(gate, "FAILED", reply.code, reply.text);
    });
    if (driver.networkNow >= gate.deadline) this.lose(gate, "TIMEOUT", "the deadline came");
  }

  private reserve(gate: Gate, half: Half): void {
    gate.half = half;
    half.state = "RESERVED";
    half.onGone = (code, text) => this.lose(gate, code, text);
    if (half.expires < gate.deadline) gate.deadline = half.expires;
    gate.timer = this.node.driver.atNetwork(gate.deadline, () => this.lose(gate, "TIMEOUT", "the deadline came"));
  }

  private local(gate: Gate): bigint {
    return this.node.driver.now + gate.deadline - this.node.driver.networkNow;
  }

  // The target.

  opened(peer: string, message: Message, answer: Answer): void {
    const no = (code: Code, text: string) => answer.refuse(code, text, "3 §2.2");
    const { application, gate_id: id, kind, variant } = message;
    if (this.gates.size >= MAX_GATES) return no("LIMIT", `${MAX_GATES} gates are under way`);
    if (message.qubit === message.pair_id) return no("UNSUPP", "a gate acts over a pair, and not on it");
    if (this.gates.has(id)) return no("REJECTED", "the gate is under way already");
    if (message.deadline_ns <= this.node.driver.networkNow) return no("NOTIME", "the deadline is past");
    const half = this.shared(peer, message.pair_id);
    if (!half) return no("UNKNOWN_ID", "there is no such pair");
    if (half.state === "HERALDED" && half.pairs.settings.primary) half.pairs.confirmed(half);
    if (half.state !== "CONFIRMED") return no("REJECTED", `the half is ${half.state}`);
    if (half.request.application && half.request.application !== application)
      return no("DENIED", "the pair belongs to another application");
    const operand = this.programs.of(application).get(message.qubit);
    if (operand?.gatesWith && !operand.gatesWith.includes(peer))
      return no("DENIED", `${application} allows ${peer} no gates on ${message.qubit}`);
    if (!operand) return no("UNKNOWN_ID", `there is no qubit ${message.qubit}`);
    if (operand.inUse) return no("NORES", `${message.qubit} is in use`);
    const gate = new Gate(id, false, kind, variant, peer, application, operand, message.deadline_ns);
    this.gates.set(id, gate);
    this.reserve(gate, half);
    answer.ok("gate.ready");
    if (gate.symmetric) this.act(gate);
  }

  private shared(peer: string, id: string): Half | undefined {
    for (const link of this.links.values()) {
      const half = link.settings.peer === peer ? link.pairs.halves.get(id) : undefined;
      if (half) return half;
    }
    return undefined;
  }

  // Both.

  private act(gate: Gate): void {
    const half = gate.half as Half;
    gate.state = "ACTING";
    half.onGone = undefined;
    half.pairs.consume(half);
    const batch = [...acts(gate, half), { type: "discard", qubit: half.qubit }];
    this.node.hardware.submit(batch, (completions) => this.acted(gate, half, completions));
  }

  private acted(gate: Gate, half: Half, completions: Completion[]): void {
    if (worked(completions)) this.node.hardware.freed(half.qubit);
    else this.node.hardware.give(half.qubit);
    if (gate.state !== "ACTING") return;
    if (!worked(completions)) return this.end(gate, "INDETERMINATE", "INDETERMINATE", "the hardware failed while it acted");
    gate.bits = completions.filter((each) => each.type === "measured").map((each) => each.bit);
    if (!gate.sends) return this.done(gate);
    gate.state = gate.expects > 0 ? "AWAITING" : "CLOSING";
    this.send(gate);
    if (gate.state === "AWAITING" && gate.outcome) this.correct(gate);
  }

  private send(gate: Gate): void {
    const fields = { gate_id: gate.id, bits: gate.bits };
    this.node.endpoint.ask(gate.peer, "gate.outcome", fields, this.local(gate), (reply, loss?: Loss) => {
      if (!this.gates.has(gate.id)) return;
      if (reply.type === "gate.done") {
        gate.peerDone = true;
        if (gate.state === "CLOSING") this.done(gate);
      } else if (!loss) {
        this.end(gate, "INDETERMINATE", "INDETERMINATE", `the outcome was not taken: ${reply.code} ${reply.text}`);
      }
    });
  }

  outcome(peer: string, message: Message, answer: Answer): void {
    const no = (code: Code, text: string) => answer.refuse(code, text, "3 §2.3");
    const gate = this.gates.get(message.gate_id);
    if (!gate || gate.peer !== peer) return no("UNKNOWN_ID", "no such gate is under way");
    if (message.bits.length !== gate.expects)
      return no("PROTOCOL", `expected ${gate.expects} bits, got ${message.bits.length}`);
    if (gate.outcome) return no("PROTOCOL", "an outcome has come before");
    const acts = gate.state === "PREPARED" || (gate.state === "OPENING" && gate.symmetric);
    if (!acts && gate.state !== "ACTING" && gate.state !== "AWAITING")
      return no("PROTOCOL", `no outcome is expected in ${gate.state}`);
    gate.outcome = { bits: message.bits, answer };
    if (acts) this.act(gate);
    else if (gate.state === "AWAITING") this.correct(gate);
  }

  private correct(gate: Gate): void {
    gate.state = "CORRECTING";
    const batch = corrects(gate, gate.half as Half);
    if (batch.length === 0) return this.corrected(gate);
    this.node.hardware.submit(batch, (completions) => {
      if (gate.state !== "CORRECTING") return;
      if (worked(completions)) this.corrected(gate);
      else this.end(gate, "INDETERMINATE", "INDETERMINATE", "the hardware failed to correct");
    });
  }

  private corrected(gate: Gate): void {
    gate.state = "CLOSING";
    this.unlock(gate);
    gate.outcome?.answer.ok("gate.done", { gate_id: gate.id });
    if (gate.peerDone) this.done(gate);
  }

  private unlock(gate: Gate): void {
    if (!gate.locked) return;
    gate.locked = gate.operand.inUse = false;
    if (!this.programs.owns(gate.application, gate.operand)) this.node.hardware.give(gate.operand.qubit);
  }

  private done(gate: Gate): void {
    this.unlock(gate);
    gate.outcome?.answer.ok("gate.done", { gate_id: gate.id });
    this.end(gate, "DONE", null, "");
  }

  /** Something that the gate needs is gone (3 §2.4). */
  private lose(gate: Gate, code: Code, text: string): void {
    if (!this.gates.has(gate.id)) return;
    const untouched = gate.state === "PAIRING" || gate.state === "PREPARED" || (gate.state === "OPENING" && !gate.symmetric);
    this.end(gate, untouched ? "FAILED" : "INDETERMINATE", code, text);
  }

  private end(gate: Gate, state: "DONE" | "FAILED" | "INDETERMINATE", code: Code | null, text: string): void {
    if (!this.gates.delete(gate.id)) return;
    gate.state = state;
    if (gate.timer) gate.timer.gone = true;
    const { half } = gate;
    if (half) {
      half.onGone = undefined;
      half.pairs.release(half, `its gate has ended: ${code}`);
    }
    if (code) gate.outcome?.answer.refuse(code, text, "3 §2.4");
    this.unlock(gate);
    const fields: Fields = { gate_id: gate.id, status: state.toLowerCase(), pair_id: half?.id ?? "", code, text };
    gate.answer?.ok("gate.result", fields);
  }

  lost(peer: string, loss: Loss, reason: string): void {
    if (loss === "silent") return;
    for (const gate of [...this.gates.values()]) if (gate.peer === peer) this.lose(gate, "PEER_LOST", `${peer}: ${reason}`);
  }

  hardwareLost(): void {
    for (const gate of [...this.gates.values()]) this.lose(gate, "BACKEND", "the hardware was lost");
  }
}
