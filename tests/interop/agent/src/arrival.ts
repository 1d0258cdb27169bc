// The order in which a peer's messages are taken when it changes its path (1 §4.8). This agent connects to nobody but the
// broker, so all of them come by way of it; and its own messages always take that way, so it sends no fences.
import { Driver, Timer } from "./driver.js";

const MAX_HELD_MESSAGES = 8192;
const MAX_HELD_BYTES = 8388608;

const less = (one: bigint, other: bigint): number => (one < other ? -1 : 1);

export class Arrival {
  private stretch = 0n;
  /** The stretch that was begun last on the relay. */
  private here = 0n;
  private waited = 0n;
  private readonly held = new Map<bigint, Uint8Array[]>();
  private readonly ends = new Map<bigint, bigint>();
  private octets = 0;
  private timer?: Timer;

  constructor(
    private readonly driver: Driver,
    private readonly patience: bigint,
    readonly epoch: bigint,
    private readonly deliver: (data: Uint8Array) => void,
  ) {}

  take(data: Uint8Array): void {
    if (this.here === this.stretch) return this.deliver(data);
    this.held.get(this.here)?.push(data);
    this.octets += data.length;
    this.bound();
  }

  fence(part: string, number: bigint): void {
    if (part === "end") {
      if (this.here > this.stretch) this.ends.set(this.here, number);
      else if (number > this.here) this.advance(number);
      return;
    }
    if (number <= this.here) return;
    this.here = number;
    if (number <= this.stretch) return;
    this.held.set(number, []);
    if (part === "break") this.advance(number);
    else this.hold();
    this.bound();
  }

  /** Nothing that waits is wanted any more. */
  close(): void {
    if (this.timer) this.timer.gone = true;
    this.held.clear();
    this.octets = 0;
  }

  /** Wait for the end of the present stretch, for a while. */
  private hold(): void {
    if (this.timer && !this.timer.gone) return;
    this.waited = this.here;
    this.timer = this.driver.at(this.driver.now + this.patience, () => this.advance(this.waited));
  }

  private bound(): void {
    const count = [...this.held.values()].reduce((sum, messages) => sum + 1 + messages.length, 0);
    if (this.held.size === 0 || (count < MAX_HELD_MESSAGES && this.octets < MAX_HELD_BYTES)) return;
    let octets = this.octets;
    for (const each of [...this.held.keys()].sort(less)) {
      octets -= (this.held.get(each) ?? []).reduce((sum, data) => sum + data.length, 0);
      if (octets < MAX_HELD_BYTES) return this.advance(each);
    }
  }

  private advance(number: bigint): void {
    if (this.timer) this.timer.gone = true;
    for (let next: bigint | undefined = number; next !== undefined; ) {
      const until: bigint = next;
      this.stretch = until;
      const due = [...this.held.keys()].filter((each) => each <= until).sort(less);
      for (const each of due) {
        const messages = this.held.get(each) ?? [];
        this.held.delete(each);
        this.octets -= messages.reduce((sum, data) => sum + data.length, 0);
        messages.forEach(this.deliver);
      }
      next = this.ends.get(until);
      for (const each of [...this.ends.keys()]) if (each <= until) this.ends.delete(each);
    }
    if (this.held.size > 0) this.hold();
  }
}
