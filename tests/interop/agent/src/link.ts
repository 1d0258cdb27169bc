// The link layer at one end: requests, windows of attempts and pairs (2 §2 to §4).
import { Clock } from "./clock.js";
import { Driver, Timer } from "./driver.js";
import { Completion, Hardware, Instruction, worked } from "./hardware.js";
import { Answer, Endpoint, Loss } from "./session.js";
import { Code, Fields, Message } from "./wire.js";

export interface LinkSettings {
  linkId: string;
  peer: string;
  station: string;
  primary: boolean;
  scheme: string;
  attempts: number;
  goodness: number;
  pairTime: bigint;
  windowTimeout: bigint;
  reportTimeout: bigint;
  pairLifetime: bigint;
  backoff: bigint;
  guard: bigint;
  lead: bigint;
}

/** The schemes that this agent knows, with the Bell states that they herald (2 §3.4). */
export const SCHEMES: Record<string, readonly string[]> = {
  "double-click": ["psi+", "psi-"],
  "time-bin": ["psi+", "psi-"],
  any: ["phi+", "phi-", "psi+", "psi-"],
};

const MAX_LINK_REQUESTS = 256;
const MAX_TOMBSTONES = 4096;
const PASSED_ON: readonly Code[] = ["UNSUPP", "UNSYNCED", "NOTIME", "NORES", "REJECTED", "BACKEND"];
const UNSETTLED: readonly Code[] = ["TIMEOUT", "PEER_LOST", "LIMIT", "EXPIRE"];

export interface Node {
  name: string;
  epoch: bigint;
  driver: Driver;
  endpoint: Endpoint;
  clock: Clock;
  hardware: Hardware;
  applicationTimeout: bigint;
  retry: bigint;
}

/** A request in the queue of a link, at either end. */
export class Request {
  state: "OFFERED" | "QUEUED" | "DONE" | "FAILED" = "QUEUED";
  /** Pairs confirmed, and windows and pairs under way. */
  confirmed = 0;
  underWay = 0;
  timer?: Timer;
  waiting: Half[] = [];

  constructor(
    readonly id: string,
    readonly application: string,
    readonly originator: boolean,
    readonly wanted: Fields,
    /** For a pair that this agent asked for itself. */
    readonly own?: { pair: (half: Half) => void; failed: (code: Code, text: string) => void },
  ) {}

  get live(): boolean {
    return this.state === "OFFERED" || this.state === "QUEUED";
  }

  get exclusive(): boolean {
    return this.wanted.atomic || this.wanted.consecutive;
  }

  get wants(): number {
    return this.wanted.number - this.confirmed - this.underWay;
  }
}

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
    readonly link: Link,
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

type WindowState = "ARMED" | "COUNTED" | "REPORTED" | "CANCELLING" | "ENDED";

class Window {
  state: WindowState = "ARMED";
  count = 0;
  report?: { attempt: number; bell: string };
  timer?: Timer;
  /** Why the primary gave it up, if it has to tell the others. */
  given?: string;
  pause = 0n;
  owed: (() => void)[] = [];

  constructor(
    readonly id: string,
    readonly request: Request,
    readonly qubit: string,
  ) {}
}

interface Waiting {
  message: Message;
  request: Request;
  answer: Answer;
  timer: Timer;
}

const windowOf = (pairId: string): string => pairId.slice(0, pairId.lastIndexOf("/"));

export class Link {
  readonly requests = new Map<string, Request>();
  readonly windows = new Map<string, Window>();
  readonly halves = new Map<string, Half>();
  readonly waiting: Waiting[] = [];
  /** Windows that are over and pairs that the other end has released: neither may begin again. */
  private readonly tombs = new Set<string>();
  private readonly tags = new Map<string, number>();
  private served = 0;
  private requestCount = 0;
  private windowCount = 0;
  private sequence = 0n;
  private pausedUntil = 0n;
  private expired: { half: Half; text: string }[] = [];

  constructor(
    private readonly node: Node,
    readonly settings: LinkSettings,
  ) {
    node.driver.afterwards.push(() => this.tellExpired());
  }

  private get id(): string {
    return this.settings.linkId;
  }

  // Requests.

  /** Why a request cannot be taken, by this end's own clock, settings and qubits (2 §2.1). */
  refusal(wanted: Fields, leftNs: bigint): [Code, string] | undefined {
    const { goodness, guard, pairTime } = this.settings;
    const qubits = this.node.hardware.count("communication");
    const unsure = this.node.clock.unsure(guard);
    if (unsure) return ["UNSYNCED", unsure];
    if (wanted.min_fidelity > goodness) return ["UNSUPP", `the link's goodness is ${goodness}`];
    if (!fits(wanted.local) || !fits(wanted.remote)) return ["UNSUPP", "the fields of a readout do not fit together"];
    if (wanted.atomic && wanted.request_type === "M") return ["UNSUPP", "type M keeps no pairs that could be there together"];
    if (wanted.atomic && this.node.hardware.connected && wanted.number > qubits) return ["UNSUPP", `there are ${qubits} communication qubits`];
    if (leftNs <= 0n) return ["NOTIME", "the deadline is past"];
    if (qubits > 0 && BigInt(Math.ceil(wanted.number / qubits)) * pairTime > leftNs) return ["NOTIME", "the pairs take longer on average"];
    if (this.requests.size >= MAX_LINK_REQUESTS) return ["NORES", `${MAX_LINK_REQUESTS} requests are in the queue`];
    if (!this.node.hardware.connected) return ["BACKEND", "the hardware is not connected"];
    return undefined;
  }

  /** Take a request here and offer it to the other end (2 §2.2). */
  create(wanted: Fields, deadline: bigint, application: string, own?: Request["own"]): Request {
    const { node, id } = this;
    this.requestCount += 1;
    const createId = `${node.name}-${node.epoch.toString(16)}-${id}-${this.requestCount}`;
    const request = new Request(createId, application, true, wanted, own);
    request.state = "OFFERED";
    this.enqueue(request, deadline);
    const fields = { ...wanted, link_id: id, create_id: createId, deadline_ns: deadline, application };
    const local = node.driver.now + deadline - node.driver.networkNow;
    node.endpoint.ask(this.settings.peer, "link.add", fields, local, (reply) => {
      if (reply.type === "link.accept") {
        if (request.state === "OFFERED") request.state = "QUEUED";
      } else if (reply.code === "TIMEOUT" || reply.code === "PEER_LOST") this.fail(request, reply.code, reply.text);
      else this.fail(request, PASSED_ON.includes(reply.code) ? reply.code : "OTHER", reply.text);
    });
    return request;
  }

  add(message: Message, answer: Answer): void {
    if (this.requests.has(message.create_id)) return answer.ok("link.accept");
    const no = this.refusal(message, message.deadline_ns - this.node.driver.networkNow);
    if (no) return answer.refuse(...no, "2 §2.2");
    this.enqueue(new Request(message.create_id, message.application, false, message), message.deadline_ns);
    answer.ok("link.accept");
  }

  private enqueue(request: Request, deadline: bigint): void {
    this.requests.set(request.id, request);
    request.timer = this.node.driver.atNetwork(deadline, () => this.fail(request, "TIMEOUT", this.late()));
  }

  private late(): string {
    return this.node.clock.unsure(this.settings.guard) ?? "the deadline came";
  }

  /** End a request with an error (2 §2.4). */
  fail(request: Request, code: Code, text: string): void {
    if (!request.live) return;
    this.leave(request, "FAILED");
    for (const window of this.windows.values()) if (window.request === request) this.abort(window, `the request ended: ${code}`);
    for (const each of this.waiting.filter((one) => one.request === request)) this.dismiss(each, code, text);
    for (const half of request.waiting.splice(0)) this.release(half, `the request ended: ${code}`);
    if (!request.originator) return;
    if (request.own) request.own.failed(code, text);
    else if (request.application && this.node.endpoint.isUp(request.application)) {
      this.tell(request.application, "link.err", { create_id: request.id, code, text });
    }
  }

  private leave(request: Request, state: "DONE" | "FAILED"): void {
    request.state = state;
    this.requests.delete(request.id);
    if (request.timer) request.timer.gone = true;
    if (![...this.requests.values()].some((each) => each.application === request.application)) this.tags.delete(request.application);
  }

  private tell(application: string, type: string, fields: Fields, answered: (reply: Message) => void = () => {}): void {
    const { driver, endpoint, applicationTimeout } = this.node;
    endpoint.ask(application, type, fields, driver.now + applicationTimeout, answered);
  }

  // Windows: the primary end.

  /** Open the windows that can be opened now (2 §3.1). */
  pump(): void {
    const { clock, driver, hardware, retry } = this.node;
    if (!this.settings.primary) return;
    for (;;) {
      if (!hardware.connected || driver.now < this.pausedUntil || hardware.freeOf("communication") === 0) return;
      const request = this.next();
      if (!request) return;
      if (clock.unsure(this.settings.guard)) return this.pause(retry);
      this.open(request, hardware.take("communication") as string);
    }
  }

  private next(): Request | undefined {
    const queued = [...this.requests.values()].filter((each) => each.state === "QUEUED");
    const begun = queued.find((each) => each.exclusive && each.confirmed + each.underWay > 0);
    const first = begun ?? this.firstInTurn(queued.filter((each) => each.wants > 0));
    if (!first || first.wants <= 0) return undefined;
    if (first.exclusive && [...this.windows.values()].some((each) => each.request !== first)) return undefined;
    if (first.wanted.atomic && this.node.hardware.freeOf("communication") < first.wants) return undefined;
    return first;
  }

  private firstInTurn(wanting: Request[]): Request | undefined {
    const tag = (each: Request) => this.tags.get(each.application) ?? this.served;
    return wanting.reduce<Request | undefined>((first, each) => {
      if (!first || each.wanted.priority > first.wanted.priority) return each;
      return each.wanted.priority === first.wanted.priority && tag(each) < tag(first) ? each : first;
    }, undefined);
  }

  private open(request: Request, qubit: string): void {
    const { driver, endpoint, epoch } = this.node;
    const { settings } = this;
    this.windowCount += 1;
    const window = new Window(`${this.id}-${epoch.toString(16)}-${this.windowCount}`, request, qubit);
    this.served = (this.tags.get(request.application) ?? this.served) + 1;
    this.tags.set(request.application, this.served);
    request.underWay += 1;
    const start = driver.networkNow + settings.lead;
    this.arm(window, settings.lead, settings.attempts, settings.windowTimeout);
    const fields = {
      link_id: this.id, window_id: window.id, create_id: request.id, scheme: settings.scheme, start_ns: start,
      attempts: settings.attempts, timeout_ns: settings.windowTimeout, bright_ratio: null,
    };
    for (const party of [settings.peer, settings.station]) {
      endpoint.ask(party, "herald.open", fields, driver.now + settings.windowTimeout, (reply) => {
        if (reply.type === "session.error") this.notOpened(window, party, reply);
      });
    }
  }

  private notOpened(window: Window, party: string, reply: Message): void {
    if (window.state === "ENDED") return;
    window.pause = reply.code === "UNSYNCED" ? this.node.retry : this.settings.backoff;
    this.abort(window, `${party}: ${reply.code}`);
    if (reply.code === "UNKNOWN_ID" || reply.code === "UNSUPP") this.fail(window.request, "REJECTED", reply.text);
  }

  private pause(time: bigint): void {
    const until = this.node.driver.now + time;
    if (until <= this.pausedUntil) return;
    this.pausedUntil = until;
    this.node.driver.at(until, () => {});
  }

  // Windows: the secondary end.

  /** Take part in a window, now or when a qubit is free (2 §3.2). */
  follow(message: Message, answer: Answer): void {
    const { settings } = this;
    const request = this.requests.get(message.create_id);
    const no = (code: Code, text: string) => answer.refuse(code, text, "2 §3.2");
    if (settings.primary) return no("DENIED", "the primary end opens windows");
    if (!request) return no("UNKNOWN_ID", "the request is not in the queue");
    if (request.state === "OFFERED") request.state = "QUEUED";
    const unsure = this.node.clock.unsure(settings.guard);
    if (unsure) return no("UNSYNCED", unsure);
    const { window_id: id } = message;
    if (this.windows.has(id) || this.tombs.has(id) || this.waiting.some((each) => each.message.window_id === id))
      return no("PROTOCOL", "the window is open, or was");
    if (message.scheme !== settings.scheme || message.bright_ratio !== null) return no("UNSUPP", `the link's scheme is ${settings.scheme}`);
    if (this.waiting.length >= MAX_LINK_REQUESTS) return no("NORES", `${MAX_LINK_REQUESTS} windows wait for a qubit`);
    const timer = this.node.driver.at(this.node.driver.now + message.timeout_ns, () => this.dismiss(each, "NORES", "no qubit was free in time"));
    const each: Waiting = { message, request, answer, timer };
    this.waiting.push(each);
  }

  /** Give the first window that waits its qubit. */
  serveWaiting(qubit: string): void {
    const { message, request, answer, timer } = this.waiting.shift() as Waiting;
    timer.gone = true;
    const window = new Window(message.window_id, request, qubit);
    request.underWay += 1;
    const wait = message.start_ns - this.node.driver.networkNow;
    this.arm(window, wait > 0n ? wait : 0n, Number(message.attempts), message.timeout_ns);
    answer.ok("herald.ready");
  }

  private dismiss(each: Waiting, code: Code, text: string): void {
    each.timer.gone = true;
    this.waiting.splice(this.waiting.indexOf(each), 1);
    each.answer.refuse(code, text, "2 §3.2");
    this.bury(each.message.window_id);
  }

  close(message: Message, answer: Answer): void {
    const window = this.windows.get(message.window_id);
    if (window) this.abort(window, "closed by the primary", false);
    const waits = this.waiting.find((each) => each.message.window_id === message.window_id);
    if (waits) this.dismiss(waits, "EXPIRE", "the window was closed");
    answer.ok("session.ack");
  }

  // The window machine (2 §3.2).

  private arm(window: Window, wait: bigint, attempts: number, timeout: bigint): void {
    this.windows.set(window.id, window);
    const { driver, hardware } = this.node;
    window.timer = driver.at(driver.now + timeout + this.settings.reportTimeout, () => this.cancel(window, "no report came"));
    const arm: Instruction = {
      type: "arm", window_id: window.id, link_id: this.id, qubit: window.qubit, start_in_ns: wait, attempts: BigInt(attempts), timeout_ns: timeout,
      bright_ratio: null,
    };
    hardware.submit([arm], (completions) => this.counted(window, completions));
  }

  private counted(window: Window, completions: Completion[]): void {
    const [ended] = completions;
    if (ended.type !== "window_ended") return window.state === "COUNTED" ? undefined : this.endEmpty(window, "the hardware failed");
    window.count = Number(ended.attempts);
    if (window.state === "ARMED") window.state = "COUNTED";
    else if (window.state === "REPORTED") this.compare(window);
    else if (window.state === "CANCELLING") this.endEmpty(window);
  }

  report(message: Message): void {
    const window = this.windows.get(message.window_id);
    if (!window) return;
    const { bell_state: bell } = message;
    const attempt = Number(message.attempt);
    if (bell === null || attempt === 0) {
      if (window.state === "COUNTED") this.endEmpty(window);
      else if (window.state === "ARMED") this.askToEnd(window);
    } else if (!SCHEMES[this.settings.scheme].includes(bell)) {
      this.abort(window, `${this.settings.scheme} cannot herald ${bell}`);
    } else if (window.state === "ARMED" || window.state === "COUNTED") {
      window.report = { attempt, bell };
      if (window.state === "COUNTED") this.compare(window);
      else window.state = "REPORTED";
    }
  }

  /** Give a window up. The primary tells the others when it is over (2 §3.5). */
  private abort(window: Window, reason: string, tell = true): void {
    if (window.state === "CANCELLING" || window.state === "ENDED") return;
    if (tell) window.given ??= reason;
    if (window.pause === 0n) window.pause = this.settings.backoff;
    this.cancel(window, reason);
  }

  private cancel(window: Window, reason: string): void {
    if (window.state === "CANCELLING" || window.state === "ENDED") return;
    window.given ??= reason;
    if (window.pause === 0n) window.pause = this.settings.backoff;
    if (window.state === "COUNTED") this.endEmpty(window);
    else this.askToEnd(window);
  }

  private askToEnd(window: Window): void {
    window.state = "CANCELLING";
    this.node.hardware.submit([{ type: "cancel", window_id: window.id }], () => {});
  }

  private compare(window: Window): void {
    const { driver } = this.node;
    const { attempt, bell } = window.report as { attempt: number; bell: string };
    if (attempt !== window.count) return this.endEmpty(window, "the counts differ");
    const now = driver.networkNow;
    const half = new Half(this, window.request, `${window.id}/${attempt}`, window.qubit, bell, now, now + this.settings.pairLifetime);
    this.halves.set(half.id, half);
    this.expireAt(half, half.expires);
    this.over(window);
    if (this.tombs.has(half.id)) this.end(half, "RELEASED", "released by the other end");
    else if (this.settings.primary) this.confirm(half);
    for (const owed of window.owed) owed();
  }

  private endEmpty(window: Window, trouble?: string): void {
    const { driver, endpoint } = this.node;
    const { peer, primary, station, windowTimeout } = this.settings;
    this.node.hardware.give(window.qubit);
    window.request.underWay -= 1;
    const tag = this.tags.get(window.request.application);
    if (tag !== undefined) this.tags.set(window.request.application, tag - 1);
    this.over(window);
    for (const owed of window.owed) owed();
    if (!primary) return;
    if (trouble || window.given) this.pause(window.pause || this.settings.backoff);
    if (window.given === undefined) return;
    const fields = { link_id: this.id, window_id: window.id, reason: window.given };
    for (const party of [peer, station]) endpoint.ask(party, "herald.close", fields, driver.now + windowTimeout, () => {});
  }

  private over(window: Window): void {
    window.state = "ENDED";
    if (window.timer) window.timer.gone = true;
    this.windows.delete(window.id);
    this.bury(window.id);
  }

  private bury(id: string): void {
    this.tombs.add(id);
    const [oldest] = this.tombs;
    if (this.tombs.size > MAX_TOMBSTONES) this.tombs.delete(oldest);
  }

  // Pairs.

  /** The primary's side of the confirmation (2 §4.1). */
  private confirm(half: Half): void {
    const { driver, endpoint } = this.node;
    half.sequence = this.sequence += 1n;
    const fields = {
      link_id: this.id, pair_id: half.id, create_id: half.request.id, sequence_number: half.sequence, bell_state: half.bell,
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
    const window = this.windows.get(windowOf(message.pair_id));
    if (half?.state !== "HERALDED") {
      if (window) window.owed.push(() => this.confirming(message, answer));
      else answer.refuse("UNKNOWN_ID", "no such pair", "2 §4.1");
      return;
    }
    const no = (code: Code, text: string) => {
      answer.refuse(code, text, "2 §4.1");
      this.release(half, text);
    };
    if (message.expires_ns <= this.node.driver.networkNow) return no("NOTIME", "the pair's end is past");
    if (message.create_id !== half.request.id || message.bell_state !== half.bell) return no("REJECTED", `heralded here: ${half.bell} for ${half.request.id}`);
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
    if (last) this.leave(request, "DONE");
    for (const each of given) this.hand(each);
  }

  private hand(half: Half): void {
    const { request } = half;
    if (request.wanted.request_type === "M") this.measure(half);
    else if (request.own) request.own.pair(half);
    else if (request.application) {
      half.told = true;
      this.tell(request.application, "link.ok", { ...this.ok(half), expires_ns: half.expires }, (reply) => {
        if (reply.type === "session.error") this.release(half, `the application did not take it: ${reply.code}`);
      });
    }
  }

  private ok(half: Half): Fields {
    const { request } = half;
    return {
      create_id: request.id, pair_id: half.id, sequence_number: half.sequence, purpose_id: request.wanted.purpose_id,
      peer: this.settings.peer, originator: request.originator, bell_state: half.bell, goodness: this.settings.goodness,
      time_of_goodness_ns: half.heralded, confirmed_ns: half.confirmed,
    };
  }

  /** Type M (2 §4.6). */
  private measure(half: Half): void {
    const { request } = half;
    const readout = request.originator ? request.wanted.local : request.wanted.remote;
    const basis = draw(readout);
    const batch = [...turned(basis, readout.rotation, half.qubit), { type: "measure", qubit: half.qubit }, { type: "discard", qubit: half.qubit }];
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
      else this.tell(request.application, "link.measured", { ...this.ok(half), basis, outcome: half.outcome });
    });
  }

  /** The primary's outcome of a test round (2 §4.7). The fidelity is not estimated here. */
  outcome(message: Message, answer: Answer): void {
    const half = this.halves.get(message.pair_id);
    if (half?.state !== "CONSUMED" || half.request.wanted.request_type !== "M") return answer.refuse("UNKNOWN_ID", "no such pair", "2 §4.7");
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
      const fields = { link_id: this.id, pair_id: half.id, reason };
      endpoint.ask(this.settings.peer, "pair.release", fields, deadline, (_reply, loss?: Loss) => {
        if (loss === "silent") driver.at(driver.now + this.node.retry, say);
      });
    };
    say();
  }

  released(message: Message, answer: Answer): void {
    const half = this.halves.get(message.pair_id);
    if (half?.live) this.end(half, "RELEASED", message.reason || "released by the other end");
    else if (!half && this.windows.has(windowOf(message.pair_id))) this.bury(message.pair_id);
    answer.ok("session.ack");
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
        const place = gone.findIndex((each) => each.half.request === half.request && each.text === text && each.half.sequence === high);
        if (place < 0) break;
        gone.splice(place, 1);
        high += 1n;
      }
      const fields = { create_id: half.request.id, sequence_low: half.sequence, sequence_high: high, text };
      if (this.node.endpoint.isUp(half.request.application)) this.tell(half.request.application, "link.expire", fields);
    }
  }

  // Losses.

  lost(name: string, loss: Loss, reason: string): void {
    const { peer, station } = this.settings;
    if (name === peer || name === station) for (const window of [...this.windows.values()]) this.abort(window, `${name} is lost`);
    if (name === peer) {
      for (const each of [...this.waiting]) this.dismiss(each, "PEER_LOST", reason);
      for (const request of [...this.requests.values()]) this.fail(request, "PEER_LOST", `${peer}: ${reason}`);
      if (loss !== "silent") for (const half of [...this.halves.values()]) this.end(half, "RELEASED", `${peer} ${loss}`);
    }
    for (const request of [...this.requests.values()])
      if (request.originator && request.application === name) this.fail(request, "PEER_LOST", `${name}: ${reason}`);
    for (const half of [...this.halves.values()])
      if (half.request.application === name && half.told && half.state !== "RESERVED") this.release(half, "its application is gone");
  }

  hardwareLost(): void {
    for (const request of [...this.requests.values()]) this.fail(request, "BACKEND", "the hardware was lost");
    for (const half of [...this.halves.values()]) this.release(half, "the hardware was lost");
  }
}

/** Whether the fields of a readout fit together (2 §4.6). */
function fits({ bases, weights, rotation }: Fields): boolean {
  if (new Set(bases).size !== bases.length) return false;
  if (weights.length > 0 && (weights.length !== bases.length || weights.every((each: number) => each === 0))) return false;
  return rotation.length === (bases.includes("rotated") ? 3 : 0);
}

function draw({ bases, weights }: Fields): string {
  const odds: number[] = weights.length > 0 ? weights : bases.map(() => 1);
  let left = Math.random() * odds.reduce((sum, each) => sum + each, 0);
  return bases[odds.findIndex((each) => (left -= each) < 0)];
}

/** What turns a basis into the computational one (2 §4.6). */
function turned(basis: string, rotation: number[], qubit: string): Instruction[] {
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
