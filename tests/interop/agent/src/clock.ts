// The network's time, from one source by exchanges in its session (4 §2, §3), and a plain bound on how far off it is.
import { Driver } from "./driver.js";
import { Endpoint } from "./session.js";
import { Message } from "./wire.js";

const MS = 1_000_000n;
const EXCHANGES = 4;
const SETTLE_BURSTS = 4;
const LEASE = 30_000n * MS;
const ACQUIRE_INTERVAL = 62_500_000n;
const SILENCE = 4_000n * MS;
const SAMPLES = 8;
const MAX_DRIFT_PPM = 100n;
const MAX_SLEW_PPM = 500n;

/** The network's time less the own clock's was `middle`, give or take `half`, when the own clock showed `at`. */
interface Sample {
  at: bigint;
  middle: bigint;
  half: bigint;
  pathDelay: bigint;
}

/** No drift is reckoned with: a sample ages by all that the own clock promises to be off by (4 §1.4). */
function bound(sample: Sample, now: bigint): bigint {
  const age = now > sample.at ? now - sample.at : sample.at - now;
  return sample.half + (age * MAX_DRIFT_PPM) / 1_000_000n + 1n;
}

interface Exchange {
  sequence: bigint;
  place: number;
  uncertainty: bigint;
  t1?: bigint;
  t2: bigint;
  t3: bigint;
  t4?: bigint;
}

export class Clock {
  state: "freerun" | "acquiring" | "locked" | "holdover" = "freerun";
  private samples: Sample[] = [];
  private agreed = 0;
  private believed = { at: 0n, offset: 0n, goal: 0n };
  private grandmaster = "";
  private asked = 0n;
  private lastSync = 0n;
  private lastBurst = 0n;
  private best?: Sample;
  private exchanges: Exchange[] = [];

  constructor(
    private readonly driver: Driver,
    private readonly endpoint: Endpoint,
    private readonly source: string,
    private readonly interval: bigint,
  ) {
    driver.offset = (now) => this.offset(now);
    endpoint.onUp.push((peer) => peer === source && this.lease());
    endpoint.onLost.push((peer) => peer === source && this.lost());
    const from = (act: (message: Message) => void) => (peer: string, message: Message) => {
      if (peer === source) act(message);
    };
    endpoint.signals.set(
      "time.announce",
      from((message) => this.announce(message)),
    );
    endpoint.signals.set(
      "time.sync",
      from((message) => this.sync(message)),
    );
    endpoint.signals.set(
      "time.follow_up",
      from((message) => this.followUp(message)),
    );
    endpoint.signals.set(
      "time.delay_resp",
      from((message) => this.delayResp(message)),
    );
    endpoint.serve("time.status", (_peer, _message, answer) => answer.ok("time.report", this.report()));
  }

  /** How far off the believed time may be now; undefined while it is not to be relied on. */
  uncertainty(): bigint | undefined {
    return this.state === "locked" || this.state === "holdover" ? this.claim() : undefined;
  }

  /** Why this node is not sure enough of the time for a guard band, or undefined (4 §3.4). */
  unsure(guard: bigint): string | undefined {
    const claim = this.uncertainty();
    if (claim !== undefined && claim <= guard) return undefined;
    const off = claim === undefined ? `is ${this.state}` : `may be ${claim} ns off`;
    return `${this.endpoint.name} ${off}, at most ${guard} ns are allowed`;
  }

  private claim(): bigint | undefined {
    if (this.samples.length === 0) return undefined;
    const { now } = this.driver;
    const off = this.offset(now) - this.surest(now).middle;
    return bound(this.surest(now), now) + (off < 0n ? -off : off);
  }

  private surest(now: bigint): Sample {
    return this.samples.reduce((best, each) => (bound(each, now) < bound(best, now) ? each : best));
  }

  /** A line over the own clock that goes to its goal without steps, and never back. */
  private offset(now: bigint): bigint {
    const { at, offset, goal } = this.believed;
    const most = ((now - at) * MAX_SLEW_PPM) / 1_000_000n;
    const left = goal - offset;
    return left > most ? offset + most : left < -most ? offset - most : goal;
  }

  private report(): Record<string, unknown> {
    const known = this.state !== "freerun";
    return {
      state: this.state,
      source: known ? this.source : "",
      grandmaster: known ? this.grandmaster : "",
      offset_ns: this.offset(this.driver.now),
      uncertainty_ns: this.claim() ?? null,
      path_delay_ns: this.samples.at(-1)?.pathDelay ?? null,
    };
  }

  // Leases.

  private lease(): void {
    if (!this.endpoint.isUp(this.source)) return;
    const { now } = this.driver;
    const interval = this.state === "locked" || this.state === "holdover" ? this.interval : ACQUIRE_INTERVAL;
    const asked = (this.asked = now);
    const fields = { interval_ns: interval, exchanges: EXCHANGES, lease_ns: LEASE };
    this.endpoint.ask(this.source, "time.lease", fields, now + SILENCE, (reply) => {
      if (reply.type === "session.error") console.error(`time.lease: ${reply.code} ${reply.text}`);
      if (this.asked !== asked) return;
      const wait = reply.type === "time.grant" ? reply.lease_ns / 2n : SILENCE / 4n;
      this.driver.at(this.driver.now + wait, () => this.asked === asked && this.lease());
    });
  }

  private become(state: Clock["state"]): void {
    const settled = (each: Clock["state"]) => each === "locked" || each === "holdover";
    const changes = settled(state) !== settled(this.state);
    if (this.state !== state) console.error(`clock: ${this.state} -> ${state}`);
    this.state = state;
    if (changes) this.lease();
  }

  private lost(): void {
    this.lastSync = 0n;
    this.exchanges = [];
    this.best = undefined;
    if (this.state === "locked") this.become("holdover");
    if (this.state === "acquiring") this.become("freerun");
  }

  // Bursts and their exchanges.

  private announce(message: Message): void {
    this.exchanges = [];
    this.best = undefined;
    this.grandmaster = message.clock_class === 255 || message.grandmaster === this.endpoint.name ? "" : message.grandmaster;
  }

  private sync(message: Message): void {
    const t2 = this.driver.arrived;
    if (message.sequence <= this.lastSync || !this.grandmaster) return;
    this.lastSync = message.sequence;
    if (message.exchange === 0) this.best = undefined;
    const exchange: Exchange = { sequence: message.sequence, place: message.exchange, t2, t3: t2, uncertainty: 0n };
    this.endpoint.tell(this.source, "time.delay_req", { sequence: message.sequence }, () => {
      exchange.t3 = process.hrtime.bigint();
    });
    this.exchanges.push(exchange);
    if (this.exchanges.length > EXCHANGES) this.exchanges.shift();
  }

  private followUp(message: Message): void {
    const exchange = this.exchanges.find((each) => each.sequence === message.sequence);
    if (!exchange) return;
    exchange.t1 = message.origin_ns;
    exchange.uncertainty = message.uncertainty_ns;
    this.measured(exchange);
  }

  private delayResp(message: Message): void {
    const exchange = this.exchanges.find((each) => each.sequence === message.sequence);
    if (!exchange) return;
    exchange.t4 = message.received_ns;
    this.measured(exchange);
  }

  private measured(exchange: Exchange): void {
    const { t1, t2, t3, t4, uncertainty, place } = exchange;
    if (t1 === undefined || t4 === undefined) return;
    this.exchanges.splice(this.exchanges.indexOf(exchange), 1);
    const low = t1 - t2;
    const high = t4 - t3;
    if (place > 0 && high >= low) {
      const pathDelay = (high - low) / 2n;
      const half = pathDelay + 1n + uncertainty + ((t3 - t2) * MAX_DRIFT_PPM) / 1_000_000n;
      if (!this.best || pathDelay < this.best.pathDelay) this.best = { at: t3, middle: (low + high) / 2n, half, pathDelay };
    }
    if (place === EXCHANGES - 1 && this.best) this.burst(this.best);
  }

  private burst(sample: Sample): void {
    const { now } = this.driver;
    this.best = undefined;
    this.lastBurst = now;
    this.driver.at(now + SILENCE, () => this.lastBurst === now && this.lost());
    if (this.state === "freerun") {
      this.become("acquiring");
      this.agreed = 0;
    }
    const agrees = this.samples.every((each) => {
      const apart = sample.middle - each.middle;
      return (apart < 0n ? -apart : apart) <= sample.half + bound(each, sample.at);
    });
    if (!agrees) {
      this.samples = [];
      this.agreed = 0;
      this.become("acquiring");
    }
    this.samples = [...this.samples, sample].slice(-SAMPLES);
    if (this.state === "acquiring") {
      const goal = this.surest(now).middle;
      this.believed = { at: now, offset: goal, goal };
      this.agreed += 1;
      if (this.agreed >= SETTLE_BURSTS) this.become("locked");
      return;
    }
    this.believed = { at: now, offset: this.offset(now), goal: this.surest(now).middle };
    this.become("locked");
  }
}
