// The halves of a link's pairs at this end (2 §4).
import { Timer } from "./driver.js";
import { worked } from "./hardware.js";
import { LinkSettings, Node, Request } from "./model.js";
import { draw, turned } from "./readout.js";
import { Answer, Loss } from "./peer.js";
import { Code, Fields, Message } from "./wire.js";

const UNSETTLED: readonly Code[] = ["TIMEOUT", "PEER_LOST", "LIMIT", "EXPIRE"];
const MAX_TOMBSTONES = 4096;
const TEST_PURPOSE = 2;

/** One end's half of a pair. */
export class Half {
  state: "HERALDED" | "CONFIRMED" | "RESERVED" | "CONSUMED" | "RELEASED" | "EXPIRED" = "HERALDED";
  sequence = 0n;
  confirmed = 0n;
  counted = false;
  /** Whether an OK was sent, so that the application has to be told when it is gone. */
  told = false;
  outcome?: number;
  owed?: (outcome: number | undefined) => void;
  timer?: Timer;
  /** What a gate does when the half that it has reserved is gone. */
  onGone?: (code: Code, text: string) => void;

  constructor(
    readonly pairs: Pairs,
    readonly request: Request,
    readonly id: string,
    readonly qubit: string,
    readonly bell: string,
    readonly heralded: bigint,
    public expires: bigint,
  ) {}

  get x(): boolean {
    return this.bell.startsWith("psi");
  }

  get z(): boolean {
    return this.bell.endsWith("-");
  }

  get live(): boolean {
    return this.state === "HERALDED" || this.state === "CONFIRMED" || this.state === "RESERVED";
  }
}

const windowOf = (pairId: string): string => pairId.slice(0, pairId.lastIndexOf("/"));

/** What the link has to say about the windows and requests that pairs come from. */
export interface Origin {
  /** Wait for the end of a pair's window; false if it is over, or never was. */
  whenOver(windowId: string, act: () => void): boolean;
  done(request: Request): void;
  goodness(minFidelity: number): number;
  tell(application: string, type: string, fields: Fields, answered?: (reply: Message) => void): void;
}

export class Pairs {
  readonly halves = new Map<string, Half>();
  /** Pairs that the other end has released before they were heralded here. */
  private readonly forsaken = new Set<string>();
  private sequence = 0n;
  private expired: { half: Half; text: string }[] = [];

  constructor(
    private readonly node: Node,
    readonly settings: LinkSettings,
    private readonly origin: Origin,
  ) {
    node.driver.afterwards.push(() => this.tellExpired());
  }

  /** A window has given this end its half of a pair. */
  heralded(id: string, request: Request, qubit: string, bell: string): void {
    const now = this.node.driver.networkNow;
    const half = new Half(this, request, id, qubit, bell, now, now + this.settings.pairLifetime);
    this.halves.set(id, half);
    request.unsure = undefined;
    this.expireAt(half, half.expires);
    if (this.forsaken.has(id)) this.end(half, "RELEASED", "released by the other end");
    else if (this.settings.primary) this.confirm(half);
  }

  /** The primary's side of the confirmation (2 §4.1). */
  private confirm(half: Half): void {
    const { driver, endpoint } = this.node;
    half.sequence = this.sequence += 1n;
    const fields = {
      link_id: this.settings.linkId,
      pair_id: half.id,
      create_id: half.request.id,
      sequence_number: half.sequence,
      bell_state: half.bell,
      expires_ns: half.expires,
    };
    endpoint.ask(this.settings.peer, "pair.confirm", fields, driver.now + half.expires - driver.networkNow, (reply) => {
      if (half.state !== "HERALDED") return;
      if (reply.type === "pair.confirmed") this.confirmed(half);
      else if (!UNSETTLED.includes(reply.code)) this.end(half, "RELEASED", `refused by the other end: ${reply.code}`);
    });
  }

  /** The secondary's. */
  confirming(message: Message, answer: Answer): void {
    const half = this.halves.get(message.pair_id);
    if (half?.state !== "HERALDED") {
      const waits = this.origin.whenOver(windowOf(message.pair_id), () => this.confirming(message, answer));
      if (!waits) answer.refuse("UNKNOWN_ID", "no such pair", "2 §4.1");
      return;
    }
    const no = (code: Code, text: string) => {
      answer.refuse(code, text, "2 §4.1");
      this.end(half, "RELEASED", text);
    };
    if (message.create_id !== half.request.id || message.bell_state !== half.bell)
      return no("REJECTED", `heralded here: ${half.bell} for ${half.request.id}`);
    if (message.expires_ns <= this.node.driver.networkNow) return no("NOTIME", "the pair's end is past");
    half.sequence = message.sequence_number;
    this.expireAt(half, message.expires_ns);
    answer.ok("pair.confirmed");
    this.confirmed(half);
  }

  /** Both ends hold the pair. */
  confirmed(half: Half): void {
    const { request } = half;
    half.state = "CONFIRMED";
    half.confirmed = this.node.driver.networkNow;
    request.underWay -= 1;
    if (!request.live) return this.release(half, "its request has ended");
    request.confirmed += 1;
    half.counted = true;
    request.waiting.push(half);
    const last = request.confirmed >= request.wanted.number;
    if (request.wanted.atomic && !last) return;
    const given = request.waiting.splice(0);
    if (last) this.origin.done(request);
    for (const each of given) this.hand(each);
  }

  private hand(half: Half): void {
    const { request } = half;
    if (request.wanted.request_type === "M") this.measure(half);
    else if (request.own) request.own.pair(half);
    else if (request.application) {
      half.told = true;
      this.origin.tell(request.application, "link.ok", { ...this.ok(half), expires_ns: half.expires }, (reply) => {
        if (reply.type === "session.error") this.release(half, `the application did not take it: ${reply.code}`);
      });
    }
  }

  private ok(half: Half): Fields {
    const { request } = half;
    return {
      create_id: request.id,
      pair_id: half.id,
      sequence_number: half.sequence,
      purpose_id: request.wanted.purpose_id,
      peer: this.settings.peer,
      originator: request.originator,
      bell_state: half.bell,
      goodness: this.origin.goodness(request.wanted.min_fidelity),
      time_of_goodness_ns: half.heralded,
      confirmed_ns: half.confirmed,
    };
  }

  /** Type M (2 §4.6). */
  private measure(half: Half): void {
    const { request } = half;
    const readout = request.originator ? request.wanted.local : request.wanted.remote;
    const basis = draw(readout);
    const batch = [
      ...turned(basis, readout.rotation, half.qubit),
      { type: "measure", qubit: half.qubit },
      { type: "discard", qubit: half.qubit },
    ];
    this.consume(half);
    this.node.hardware.submit(batch, (completions) => {
      half.outcome = completions.find((each) => each.type === "measured")?.bit;
      half.owed?.(half.outcome);
      if (worked(completions)) this.node.hardware.freed(half.qubit);
      else {
        this.node.hardware.give(half.qubit);
        half.outcome = undefined;
      }
      if (!request.application) return;
      if (half.outcome === undefined) this.expired.push({ half, text: "the hardware failed to measure" });
      else this.origin.tell(request.application, "link.measured", { ...this.ok(half), basis, outcome: half.outcome });
    });
  }

  /** The primary's outcome of a test round (2 §4.7). The fidelity is not estimated here. */
  outcome(message: Message, answer: Answer): void {
    const half = this.halves.get(message.pair_id);
    const test = half?.request.wanted.purpose_id === TEST_PURPOSE && !half.request.application;
    if (!half || half.state !== "CONSUMED" || !test || half.owed)
      return answer.refuse("UNKNOWN_ID", "no such pair", "2 §4.7");
    const give = (outcome: number | undefined) => {
      if (outcome === undefined) answer.refuse("BACKEND", "the hardware failed to measure", "2 §4.7");
      else answer.ok("pair.compared", { outcome });
    };
    if (half.outcome !== undefined) give(half.outcome);
    else half.owed = give;
  }

  /** The half's qubit is its user's from now on. */
  consume(half: Half): void {
    half.state = "CONSUMED";
    if (half.timer) half.timer.gone = true;
    half.timer = this.node.driver.atNetwork(half.expires, () => this.halves.delete(half.id));
  }

  /** Give a half up, and tell the other end (2 §4.3). */
  release(half: Half, reason: string): void {
    if (!half.live) return;
    this.end(half, "RELEASED", reason);
    const { driver, endpoint } = this.node;
    const say = () => {
      const deadline = driver.now + half.expires - driver.networkNow;
      if (deadline <= driver.now) return;
      const fields = { link_id: this.settings.linkId, pair_id: half.id, reason };
      endpoint.ask(this.settings.peer, "pair.release", fields, deadline, (_reply, loss?: Loss) => {
        if (loss === "silent") driver.at(driver.now + this.node.retry, say);
      });
    };
    say();
  }

  released(message: Message, answer: Answer): void {
    const half = this.halves.get(message.pair_id);
    if (half?.live) this.end(half, "RELEASED", message.reason || "released by the other end");
    else if (!half) this.forsake(message.pair_id);
    answer.ok("session.ack");
  }

  private forsake(id: string): void {
    this.forsaken.add(id);
    const [oldest] = this.forsaken;
    if (this.forsaken.size > MAX_TOMBSTONES) this.forsaken.delete(oldest);
  }

  private expireAt(half: Half, expires: bigint): void {
    half.expires = expires;
    if (half.timer) half.timer.gone = true;
    half.timer = this.node.driver.atNetwork(expires, () => this.end(half, "EXPIRED", "it expired"));
  }

  private end(half: Half, state: "RELEASED" | "EXPIRED", text: string): void {
    if (!half.live) return;
    const { request } = half;
    half.state = state;
    if (half.timer) half.timer.gone = true;
    this.halves.delete(half.id);
    this.node.hardware.give(half.qubit);
    if (!half.counted) request.underWay -= 1;
    if (request.waiting.includes(half)) {
      request.waiting.splice(request.waiting.indexOf(half), 1);
      request.confirmed -= 1;
    }
    if (half.told) this.expired.push({ half, text });
    half.onGone?.(state === "EXPIRED" ? "EXPIRE" : "PEER_LOST", text);
  }

  /** One message for numbers without a gap, of one request and for one reason (2 §2.4). */
  private tellExpired(): void {
    const gone = this.expired.splice(0).sort((a, b) => Number(a.half.sequence - b.half.sequence));
    while (gone.length > 0) {
      const [{ half, text }] = gone;
      let high = half.sequence;
      for (;;) {
        const place = gone.findIndex(
          (each) => each.half.request === half.request && each.text === text && each.half.sequence === high,
        );
        if (place < 0) break;
        gone.splice(place, 1);
        high += 1n;
      }
      const fields = { create_id: half.request.id, sequence_low: half.sequence, sequence_high: high, text };
      if (this.node.endpoint.isUp(half.request.application)) this.origin.tell(half.request.application, "link.expire", fields);
    }
  }

  /** The other end, an application or the hardware is gone. */
  lost(name: string, loss: Loss): void {
    for (const half of [...this.halves.values()]) {
      if (name === this.settings.peer && loss !== "silent") this.end(half, "RELEASED", `${name} ${loss}`);
      else if (half.request.application === name && half.told && half.state !== "RESERVED")
        this.release(half, "its application is gone");
    }
  }

  hardwareLost(): void {
    for (const half of [...this.halves.values()]) this.release(half, "the hardware was lost");
  }
}
