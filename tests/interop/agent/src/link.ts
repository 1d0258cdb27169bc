// The link layer at one end: requests and windows of attempts (2 §2, §3).
import { TOLERANCE, bestFidelity, fidelityAt, ratioFor } from "./bright.js";
import { Timer } from "./driver.js";
import { Completion, Instruction } from "./hardware.js";
import { LinkSettings, Node, Request } from "./model.js";
import { Origin, Pairs } from "./pairs.js";
import { fits } from "./readout.js";
import { Answer, Loss } from "./peer.js";
import { Code, Fields, Message } from "./wire.js";

const MAX_LINK_REQUESTS = 256;
const MAX_TOMBSTONES = 4096;
const PASSED_ON: readonly Code[] = ["DENIED", "UNSUPP", "UNSYNCED", "NOTIME", "NORES", "REJECTED", "BACKEND"];

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
  since: bigint;
  message: Message;
  request: Request;
  answer: Answer;
  timer: Timer;
}

/** The schemes that this agent knows, with the Bell states that they herald (2 §3.4). */
export const SCHEMES: Record<string, readonly string[]> = {
  "double-click": ["psi+", "psi-"],
  "single-click": ["psi+", "psi-"],
  "time-bin": ["psi+", "psi-"],
  direct: ["psi+", "psi-"],
  any: ["phi+", "phi-", "psi+", "psi-"],
};

/** Whose turn it can be: an application's within a priority. */
const turn = (request: Request): string => `${request.wanted.priority} ${request.application}`;

export class Link implements Origin {
  readonly requests = new Map<string, Request>();
  readonly windows = new Map<string, Window>();
  readonly pairs: Pairs;
  readonly waiting: Waiting[] = [];
  /** Windows that are over: they may not begin again. */
  private readonly tombs = new Set<string>();
  private readonly tags = new Map<string, number>();
  private readonly least = new Map<number, number>();
  private present = new Map<string, number>();
  private requestCount = 0;
  private windowCount = 0;
  private pausedUntil = 0n;

  constructor(
    private readonly node: Node,
    readonly settings: LinkSettings,
  ) {
    this.pairs = new Pairs(node, settings, this);
  }

  private get id(): string {
    return this.settings.linkId;
  }

  // Requests.

  /** Why a request cannot be taken, by this end's own clock, settings and qubits (2 §2.1). */
  refusal(wanted: Fields, leftNs: bigint): [Code, string] | undefined {
    const { bright, goodness, guard } = this.settings;
    const best = bright ? bestFidelity(bright) : goodness;
    const qubits = this.node.hardware.count("communication");
    const unsure = this.node.clock.unsure(guard);
    if (unsure) return ["UNSYNCED", unsure];
    if (wanted.min_fidelity > best) return ["UNSUPP", `${best} is the best that the link gives`];
    if (!fits(wanted.local) || !fits(wanted.remote)) return ["UNSUPP", "the fields of a readout do not fit together"];
    if (wanted.atomic && wanted.request_type === "M") return ["UNSUPP", "type M keeps no pairs that could be there together"];
    if (wanted.atomic && this.node.hardware.connected && wanted.number > qubits)
      return ["UNSUPP", `there are ${qubits} communication qubits`];
    if (leftNs <= 0n) return ["NOTIME", "the deadline is past"];
    if (qubits > 0 && Math.ceil(wanted.number / qubits) * this.pairTime(wanted.min_fidelity) > leftNs)
      return ["NOTIME", "the pairs take longer on average"];
    if (this.requests.size >= MAX_LINK_REQUESTS) return ["NORES", `${MAX_LINK_REQUESTS} requests are in the queue`];
    if (!this.node.hardware.connected) return ["BACKEND", "the hardware is not connected"];
    return undefined;
  }

  /** The bright ratio for a fidelity, or for none; null for a scheme without. */
  private ratio(fidelity: number): number | null {
    const { bright, goodness } = this.settings;
    return bright ? ratioFor(bright, fidelity || goodness) : null;
  }

  /** The mean time until a window heralds a pair of a fidelity, in nanoseconds. */
  private pairTime(fidelity: number): number {
    return (Number(this.settings.pairTime) * (this.ratio(0) ?? 1)) / (this.ratio(fidelity) ?? 1);
  }

  /** What is expected of a pair of which a fidelity was asked (2 §4.7). */
  goodness(fidelity: number): number {
    const { bright, goodness } = this.settings;
    return bright ? fidelityAt(bright, this.ratio(fidelity) as number) : goodness;
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
    request.timer = this.node.driver.atNetwork(deadline, () => this.fail(request, "TIMEOUT", this.late(request)));
  }

  private late(request: Request): string {
    return this.node.clock.unsure(this.settings.guard) ?? request.unsure ?? "the deadline came";
  }

  /** End a request with an error (2 §2.4). */
  fail(request: Request, code: Code, text: string): void {
    if (!request.live) return;
    this.leave(request, "FAILED");
    for (const window of this.windows.values())
      if (window.request === request) this.abort(window, `the request ended: ${code}`);
    for (const each of this.waiting.filter((one) => one.request === request)) this.dismiss(each, code, text);
    for (const half of request.waiting.splice(0)) this.pairs.release(half, `the request ended: ${code}`);
    if (!request.originator) return;
    if (request.own) request.own.failed(code, text);
    else if (request.application && this.node.endpoint.isUp(request.application)) {
      this.tell(request.application, "link.err", { create_id: request.id, code, text });
    }
  }

  done(request: Request): void {
    this.leave(request, "DONE");
  }

  private leave(request: Request, state: "DONE" | "FAILED"): void {
    request.state = state;
    this.requests.delete(request.id);
    if (request.timer) request.timer.gone = true;
  }

  tell(application: string, type: string, fields: Fields, answered: (reply: Message) => void = () => {}): void {
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
    const begun = queued.find((each) => each.exclusive && each.begun);
    if (!begun) this.meet(queued);
    const first = begun ?? this.firstInTurn(queued.filter((each) => each.wants > 0));
    if (!first || first.wants <= 0) return undefined;
    if (first.exclusive && [...this.windows.values()].some((each) => each.request !== first)) return undefined;
    if (first.wanted.atomic && this.node.hardware.freeOf("communication") < first.wants) return undefined;
    return first;
  }

  private firstInTurn(wanting: Request[]): Request | undefined {
    const tag = (each: Request) => this.tags.get(turn(each)) as number;
    return wanting.reduce<Request | undefined>((first, each) => {
      if (!first || each.wanted.priority > first.wanted.priority) return each;
      return each.wanted.priority === first.wanted.priority && tag(each) < tag(first) ? each : first;
    }, undefined);
  }

  /** Begin the turns of those who were away: with no less than those who waited last (2 §3.1). */
  private meet(queued: Request[]): void {
    const present = new Map(queued.map((each) => [turn(each), each.wanted.priority as number]));
    if (present.size === this.present.size && [...present.keys()].every((each) => this.present.has(each))) return;
    const lows = new Map<number, number>();
    for (const [each, priority] of this.present) {
      const tag = this.tags.get(each) ?? 0;
      lows.set(priority, Math.min(lows.get(priority) ?? tag, tag));
    }
    for (const [priority, low] of lows) this.least.set(priority, Math.max(this.least.get(priority) ?? 0, low));
    for (const [each, priority] of present)
      if (!this.present.has(each)) this.tags.set(each, Math.max(this.tags.get(each) ?? 0, this.least.get(priority) ?? 0));
    for (const each of this.tags.keys()) if (this.tags.size > MAX_LINK_REQUESTS && !present.has(each)) this.tags.delete(each);
    this.present = present;
  }

  /** Count a window of an application, or take one back that brought nothing. */
  private count(request: Request, windows: 1 | -1): void {
    const tag = this.tags.get(turn(request));
    if (tag !== undefined) this.tags.set(turn(request), tag + windows);
  }

  private open(request: Request, qubit: string): void {
    const { driver, endpoint, epoch } = this.node;
    const { settings } = this;
    this.windowCount += 1;
    const window = new Window(`${this.id}-${epoch.toString(16)}-${this.windowCount}`, request, qubit);
    this.count(request, 1);
    request.begun = true;
    request.underWay += 1;
    const start = driver.networkNow + settings.lead;
    const bright = this.ratio(request.wanted.min_fidelity);
    this.arm(window, settings.lead, settings.attempts, settings.windowTimeout, bright);
    const fields = {
      link_id: this.id,
      window_id: window.id,
      create_id: request.id,
      scheme: settings.scheme,
      start_ns: start,
      attempts: settings.attempts,
      timeout_ns: settings.windowTimeout,
      bright_ratio: bright,
    };
    for (const party of new Set([settings.peer, settings.station])) {
      endpoint.ask(party, "herald.open", fields, driver.now + settings.windowTimeout, (reply) => {
        if (reply.type === "session.error") this.notOpened(window, party, reply);
      });
    }
  }

  private notOpened(window: Window, party: string, reply: Message): void {
    if (window.state === "ENDED") return;
    const unsynced = reply.code === "UNSYNCED";
    window.pause = unsynced ? this.node.retry : this.settings.backoff;
    if (unsynced) window.request.unsure = reply.text;
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
    const { bright_ratio: ratio } = message;
    if (message.scheme !== settings.scheme || (ratio === null) !== (settings.bright === undefined))
      return no("UNSUPP", `the link's scheme is ${settings.scheme}`);
    if (settings.bright && fidelityAt(settings.bright, ratio) < request.wanted.min_fidelity - TOLERANCE)
      return no("UNSUPP", `bright ratio ${ratio} gives less than ${request.wanted.min_fidelity}`);
    if (this.waiting.length >= MAX_LINK_REQUESTS) return no("NORES", `${MAX_LINK_REQUESTS} windows wait for a qubit`);
    const timer = this.node.driver.at(this.node.driver.now + message.timeout_ns, () =>
      this.dismiss(each, "NORES", "no qubit was free in time"),
    );
    const each: Waiting = { since: this.node.driver.now, message, request, answer, timer };
    this.waiting.push(each);
  }

  /** Give the first window that waits its qubit. */
  serveWaiting(qubit: string): void {
    const { message, request, answer, timer } = this.waiting.shift() as Waiting;
    timer.gone = true;
    const window = new Window(message.window_id, request, qubit);
    request.underWay += 1;
    const wait = message.start_ns - this.node.driver.networkNow;
    this.arm(window, wait > 0n ? wait : 0n, Number(message.attempts), message.timeout_ns, message.bright_ratio);
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
    if (window) this.abort(window, "closed by the primary");
    const waits = this.waiting.find((each) => each.message.window_id === message.window_id);
    if (waits) this.dismiss(waits, "EXPIRE", "the window was closed");
    answer.ok("session.ack");
  }

  // The window machine (2 §3.2).

  private arm(window: Window, wait: bigint, attempts: number, timeout: bigint, bright: number | null): void {
    this.windows.set(window.id, window);
    const { driver, hardware } = this.node;
    window.timer = driver.at(driver.now + timeout + this.settings.reportTimeout, () => this.abort(window, "no report came"));
    const arm: Instruction = {
      type: "arm",
      window_id: window.id,
      link_id: this.id,
      qubit: window.qubit,
      start_in_ns: wait,
      attempts: BigInt(attempts),
      timeout_ns: timeout,
      bright_ratio: bright,
    };
    hardware.submit([arm], (completions) => this.counted(window, completions));
  }

  private counted(window: Window, completions: Completion[]): void {
    const [ended] = completions;
    if (ended.type !== "window_ended")
      return window.state === "COUNTED" ? undefined : this.endEmpty(window, "the hardware failed");
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
  private abort(window: Window, reason: string): void {
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
    const { attempt, bell } = window.report as { attempt: number; bell: string };
    if (attempt !== window.count) return this.endEmpty(window, "the counts differ");
    this.over(window);
    this.pairs.heralded(`${window.id}/${attempt}`, window.request, window.qubit, bell);
    for (const owed of window.owed) owed();
  }

  whenOver(windowId: string, act: () => void): boolean {
    const window = this.windows.get(windowId);
    window?.owed.push(act);
    return window !== undefined;
  }

  private endEmpty(window: Window, trouble?: string): void {
    const { driver, endpoint } = this.node;
    const { peer, primary, station, windowTimeout } = this.settings;
    this.node.hardware.give(window.qubit);
    window.request.underWay -= 1;
    this.count(window.request, -1);
    this.over(window);
    for (const owed of window.owed) owed();
    if (!primary) return;
    if (trouble || window.given) this.pause(window.pause || this.settings.backoff);
    if (window.given === undefined) return;
    const fields = { link_id: this.id, window_id: window.id, reason: window.given };
    for (const party of new Set([peer, station])) endpoint.ask(party, "herald.close", fields, driver.now + windowTimeout, () => {});
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

  // Losses.

  lost(name: string, loss: Loss, reason: string): void {
    const { peer, station } = this.settings;
    if (name === peer || name === station)
      for (const window of [...this.windows.values()]) this.abort(window, `${name} is lost`);
    if (name === peer) {
      for (const each of [...this.waiting]) this.dismiss(each, "PEER_LOST", reason);
      for (const request of [...this.requests.values()]) this.fail(request, "PEER_LOST", `${peer}: ${reason}`);
    }
    for (const request of [...this.requests.values()])
      if (request.originator && request.application === name) this.fail(request, "PEER_LOST", `${name}: ${reason}`);
    this.pairs.lost(name, loss);
  }

  hardwareLost(): void {
    for (const request of [...this.requests.values()]) this.fail(request, "BACKEND", "the hardware was lost");
    this.pairs.hardwareLost();
  }
}
