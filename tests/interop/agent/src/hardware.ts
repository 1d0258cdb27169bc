// Qubits, and what carries out instructions on them (2 §7).
import { Driver, Timer } from "./driver.js";
import { Endpoint } from "./session.js";
import { Fields } from "./wire.js";

export type Kind = "communication" | "storage" | "reference";
export type Instruction = Fields & { type: string };
export type Completion = Fields & { type: string };
export type Done = (completions: Completion[]) => void;

export interface Backend {
  /** Called when it is connected, with all qubits, and when it is lost. */
  connected: (qubits: Map<string, Kind>) => void;
  lost: (reason: string) => void;
  open(): void;
  submit(batch: Instruction[], done: Done): void;
}

/** Whether all was carried out. */
export const worked = (completions: Completion[]): boolean => completions.every((each) => each.type !== "failed");

/** The node's qubits: which are free, and a backend that may come and go. */
export class Hardware {
  connected = false;
  readonly onLost: (() => void)[] = [];
  private kinds = new Map<string, Kind>();
  private free = new Set<string>();
  private running = new Set<Done>();

  constructor(private readonly backend: Backend) {
    backend.connected = (qubits) => {
      this.kinds = qubits;
      this.free = new Set(qubits.keys());
      this.connected = true;
    };
    backend.lost = (reason) => {
      if (!this.connected) return;
      this.connected = false;
      this.free.clear();
      const running = [...this.running];
      this.running.clear();
      for (const done of running) done([{ type: "failed", text: reason }]);
      for (const lost of this.onLost) lost();
    };
  }

  count(kind: Kind): number {
    return [...this.kinds.values()].filter((each) => each === kind).length;
  }

  freeOf(kind: Kind): number {
    return [...this.free].filter((qubit) => this.kinds.get(qubit) === kind).length;
  }

  take(kind: Kind): string | undefined {
    for (const qubit of this.free) {
      if (this.kinds.get(qubit) !== kind) continue;
      this.free.delete(qubit);
      return qubit;
    }
    return undefined;
  }

  /** Say that a qubit is free, whose discard was submitted. */
  freed(qubit: string): void {
    if (this.connected) this.free.add(qubit);
  }

  /** Discard a qubit. Batches are carried out in order, so it can be taken again at once. */
  give(qubit: string): void {
    if (!this.connected) return;
    this.submit([{ type: "discard", qubit }], () => {});
    this.freed(qubit);
  }

  submit(batch: Instruction[], done: Done): void {
    const once: Done = (completions) => {
      if (this.running.delete(once)) done(completions);
    };
    this.running.add(once);
    this.backend.submit(batch, once);
  }
}

/** Hardware by script, as the conformance kit needs it: every measurement gives 0, every window ends with its last attempt. */
export class ScriptedBackend implements Backend {
  connected: Backend["connected"] = () => {};
  lost: Backend["lost"] = () => {};
  private readonly windows = new Map<string, { begin: Timer; end: (attempts: number) => void }>();

  constructor(
    private readonly driver: Driver,
    private readonly qubits: Map<string, Kind>,
  ) {}

  open(): void {
    this.driver.stimulus(() => this.connected(this.qubits));
  }

  submit(batch: Instruction[], done: Done): void {
    setImmediate(() => {
      const completions: Completion[] = [];
      for (const instruction of batch) {
        if (instruction.type === "arm") return this.arm(instruction, (ended) => done([...completions, ended]));
        completions.push(this.carryOut(instruction));
      }
      this.driver.stimulus(() => done(completions));
    });
  }

  private carryOut(instruction: Instruction): Completion {
    if (instruction.type === "cancel") this.windows.get(instruction.window_id)?.end(0);
    return instruction.type === "measure" ? { type: "measured", bit: 0 } : { type: "done" };
  }

  private arm(window: Instruction, ended: (completion: Completion) => void): void {
    const { window_id: id, attempts, start_in_ns: wait, timeout_ns: timeout } = window;
    const end = (made: number) => {
      if (!this.windows.delete(id)) return;
      begin.gone = true;
      this.driver.stimulus(() => ended({ type: "window_ended", window_id: id, attempts: made, bell_state: null }));
    };
    const late = wait > timeout;
    const begin = this.driver.at(this.driver.now + (late ? timeout : wait), () => setImmediate(end, late ? 0 : attempts));
    this.windows.set(id, { begin, end });
    this.driver.stimulus(() => {});
  }
}

/** Simulated hardware: a world that owns the qubits. Its messages are described in bellwire.sim.messages. */
export class WorldBackend implements Backend {
  connected: Backend["connected"] = () => {};
  lost: Backend["lost"] = () => {};
  private lease = 0n;
  private number = 0n;

  constructor(
    private readonly driver: Driver,
    private readonly endpoint: Endpoint,
    private readonly world: string,
  ) {
    endpoint.onUp.push(() => this.describe());
    endpoint.onLost.push((_peer, loss) => {
      this.lease = 0n;
      this.lost(`the world is lost: ${loss}`);
    });
  }

  open(): void {
    this.endpoint.keep(this.world);
  }

  submit(batch: Instruction[], done: Done): void {
    const { lease } = this;
    this.number += 1n;
    const fields = { lease, number: this.number, instructions: batch };
    this.endpoint.ask(this.world, "world.submit", fields, this.driver.now + 3_600_000_000_000n, (reply) => {
      done(reply.type === "world.complete" ? reply.completions : [{ type: "failed", text: reply.text }]);
    });
  }

  private describe(): void {
    if (this.lease) return;
    this.endpoint.ask(this.world, "world.describe", { lease: 0n }, this.driver.now + 10_000_000_000n, (reply) => {
      if (reply.type !== "world.description") return console.error(`the world says nothing of this node: ${reply.text}`);
      this.lease = reply.lease;
      this.number = 0n;
      this.connected(new Map(reply.qubits.map((each: { name: string; kind: Kind }) => [each.name, each.kind])));
      return undefined;
    });
  }
}
