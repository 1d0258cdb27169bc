// Sessions, requests and replies with everybody behind one connection (1 §4, §6).
import { Role, forbidden } from "./access.js";
import { Arrival } from "./arrival.js";
import { Driver } from "./driver.js";
import { Answer, Asked, Loss, MAX_ANSWERED_REQUESTS, Peer } from "./peer.js";
import { Code, Fields, KINDS, Message, Refused, decode, encode } from "./wire.js";

export interface Times {
  heartbeat: bigint;
  liveness: bigint;
  retry: bigint;
  retryLimit: bigint;
}

const MAX_PEERS = 4096;
const MAX_PENDING_REQUESTS = 8192;
const MAX_REPORTED_PEERS = 256;
const VERSION = 1;

/** Where the type of a fence stands, and how it begins (1 §4.8). */
const TYPE_AT = 7;
const FENCE = Buffer.from("session.fence");

export type Server = (peer: string, message: Message, answer: Answer) => void;

export class Endpoint {
  /** Called when a peer is lost, when a session is UP, and with messages that are neither requests nor replies. */
  readonly onLost: ((peer: string, loss: Loss, reason: string) => void)[] = [];
  readonly onUp: ((peer: string) => void)[] = [];
  readonly signals = new Map<string, (peer: string, message: Message) => void>();
  private readonly peers = new Map<string, Peer>();
  private readonly servers = new Map<string, Server>();
  private readonly introduced = new Map<string, Role>();
  private readonly arrivals = new Map<string, Arrival>();
  private lastId = 0n;
  private pending = 0;
  private looked: bigint;

  constructor(
    private readonly driver: Driver,
    readonly name: string,
    private readonly epoch: bigint,
    private readonly broker: string,
    private readonly times: Times,
    private readonly roles: ReadonlyMap<string, Role>,
    private readonly transmit: (peer: string, data: Uint8Array, sending?: () => void) => void,
  ) {
    this.looked = driver.now;
    this.look();
    this.signals.set("session.introduction", (peer, message) => this.introduction(peer, message));
    this.signals.set("session.revocation", (peer, message) => this.revocation(peer, message));
    this.serve("session.status", (_peer, _message, answer) => this.report(answer));
  }

  serve(type: string, server: Server): void {
    this.servers.set(type, server);
  }

  isUp(name: string): boolean {
    return this.peers.get(name)?.state === "UP";
  }

  /** Keep a session from now on. */
  keep(name: string): void {
    const peer = this.peer(name);
    peer.keep = true;
    this.want(peer);
  }

  /** Ask something until a time of the own clock (1 §4.4). */
  ask(name: string, type: string, fields: Fields, deadline: bigint, answered: Asked["answered"]): void {
    const peer = this.peer(name);
    const asked: Asked = { id: ++this.lastId, type, fields, cause: this.driver.cause, interval: this.times.retry, answered };
    if (this.pending >= MAX_PENDING_REQUESTS) {
      this.driver.at(this.driver.now, () =>
        answered(this.verdict("LIMIT", `${MAX_PENDING_REQUESTS} requests await their answer`)),
      );
      return;
    }
    this.pending += 1;
    peer.asked.set(asked.id, asked);
    asked.deadline = this.driver.at(deadline, () =>
      this.end(peer, asked, this.verdict("TIMEOUT", `${name} did not answer ${type} in time`)),
    );
    this.want(peer);
    this.repeat(peer, asked);
  }

  /** Send what is neither request nor reply, if the session is UP. `sending` is called just before it leaves. */
  tell(name: string, type: string, fields: Fields, sending?: () => void): void {
    const peer = this.peer(name);
    if (peer.state === "UP") this.send(peer, this.message(peer, type, fields, 0n), sending);
  }

  /** Say goodbye to everybody (1 §4.6). */
  close(reason: string): void {
    for (const peer of this.peers.values()) {
      if (peer.state !== "DOWN") this.send(peer, this.message(peer, "session.goodbye", { reason }, 0n));
      peer.keep = false;
      peer.state = "DOWN";
      peer.retry && (peer.retry.gone = true);
    }
  }

  /** Take a transmission's second frame, in its turn (1 §4.8). */
  arrive(name: string, data: Uint8Array): void {
    const arrival = this.arrivals.get(name);
    if (FENCE.equals(data.subarray(TYPE_AT, TYPE_AT + FENCE.length))) this.fence(name, data);
    else if (arrival) arrival.take(data);
    else this.receive(name, data);
  }

  private receive(name: string, data: Uint8Array): void {
    let message: Message;
    try {
      message = decode(data);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (error.type !== "session.error") this.refuse(name, error.epoch, error.requestId, error.code, error.message, "1 §3");
      return;
    }
    const peer = this.peers.get(name);
    if (message.type === "session.hello") this.hello(name, message);
    else if (message.type === "session.error") this.error(name, message);
    else if (message.type === "session.welcome") peer && this.welcome(peer, message);
    else this.exchange(name, peer, message);
  }

  // Greeting.

  private peer(name: string): Peer {
    let peer = this.peers.get(name);
    if (!peer) {
      peer = new Peer(name);
      this.peers.set(name, peer);
    }
    return peer;
  }

  private want(peer: Peer): void {
    if (peer.state !== "DOWN") return;
    peer.state = "GREETING";
    peer.greeted = this.driver.now;
    peer.hellos = [];
    this.greet(peer);
  }

  private greet(peer: Peer): void {
    const id = ++this.lastId;
    peer.hellos = [...peer.hellos, id].slice(-16);
    this.send(peer, {
      type: "session.hello",
      epoch: this.epoch,
      peer_epoch: 0n,
      cause_id: this.driver.cause,
      request_id: id,
      versions: [VERSION],
      role: "agent",
      capabilities: [],
      heartbeat_ns: this.times.heartbeat,
    });
    peer.retry && (peer.retry.gone = true);
    peer.retry = this.driver.at(this.driver.now + this.times.retry, () => peer.state === "GREETING" && this.greet(peer));
  }

  private hello(name: string, message: Message): void {
    const no = (code: Code, text: string) => this.refuse(name, message.epoch, message.request_id, code, text, "1 §4.1");
    const known = this.peers.get(name);
    if (message.epoch === 0n) return no("PROTOCOL", "0 is no epoch");
    if (!known && this.peers.size >= MAX_PEERS && !this.forget()) return no("LIMIT", `${MAX_PEERS} sessions are open`);
    if (known && message.epoch < known.epoch) return no("STALE", `a later incarnation was met: ${known.epoch}`);
    if (!message.versions.includes(VERSION)) return no("VERSION", `expected version ${VERSION}`);
    const wrong = this.wrong(name, message.role);
    if (wrong) return no(...wrong);
    const peer = this.peer(name);
    this.meet(peer, message.epoch);
    peer.role = message.role;
    peer.capabilities = message.capabilities;
    peer.state = "UP";
    this.send(
      peer,
      this.message(
        peer,
        "session.welcome",
        { version: VERSION, role: "agent", heartbeat_ns: this.times.heartbeat },
        message.request_id,
      ),
    );
    this.opened(peer);
  }

  private welcome(peer: Peer, message: Message): void {
    if (message.peer_epoch !== this.epoch || message.epoch < peer.epoch || message.epoch === 0n || peer.state === "DOWN")
      return;
    if (message.version !== VERSION)
      return this.refuse(peer.name, message.epoch, 0n, "VERSION", "that version was not offered", "1 §4.1");
    const wrong = this.wrong(peer.name, message.role);
    if (wrong) return this.refuse(peer.name, message.epoch, 0n, ...wrong, "1 §4.1");
    const renewed = peer.state === "UP" && message.epoch === peer.epoch;
    this.meet(peer, message.epoch);
    peer.role = message.role;
    peer.capabilities = message.capabilities;
    peer.state = "UP";
    if (!renewed) this.opened(peer);
  }

  /** Hear a peer, of this epoch. A greater one than before means that the former incarnation is gone (1 §4.3). */
  private meet(peer: Peer, epoch: bigint): void {
    peer.heard = this.driver.now;
    if (epoch <= peer.epoch) return;
    const restarted = peer.epoch > 0n;
    peer.epoch = epoch;
    peer.forgetAll();
    if (!restarted) return;
    for (const asked of [...peer.asked.values()])
      if (asked.data) this.end(peer, asked, this.verdict("PEER_LOST", `${peer.name} restarted`), "restarted");
    for (const lost of this.onLost) lost(peer.name, "restarted", "it restarted");
  }

  private opened(peer: Peer): void {
    for (const asked of peer.asked.values()) this.repeat(peer, asked, true);
    for (const up of this.onUp) up(peer.name);
  }

  private lose(peer: Peer, loss: Loss, reason: string): void {
    peer.state = "DOWN";
    peer.retry && (peer.retry.gone = true);
    for (const asked of [...peer.asked.values()])
      if (asked.data || !peer.keep) this.end(peer, asked, this.verdict("PEER_LOST", `${peer.name}: ${reason}`), loss);
    for (const lost of this.onLost) lost(peer.name, loss, reason);
    if (peer.keep || peer.asked.size > 0) this.driver.at(this.driver.now + this.times.retry, () => this.want(peer));
  }

  private disown(peer: Peer, reason: string): void {
    if (peer.state !== "UP") return;
    peer.state = "GREETING";
    peer.reason = reason;
    peer.greeted = peer.heard;
    peer.hellos = [];
    this.greet(peer);
  }

  private forget(): boolean {
    for (const peer of this.peers.values())
      if (peer.state === "DOWN" && !peer.keep && peer.asked.size === 0) return this.peers.delete(peer.name);
    return false;
  }

  /** Look for silence, and break one's own (1 §4.5). */
  private look(): void {
    const { heartbeat, liveness } = this.times;
    const { now } = this.driver;
    const away = now - this.looked >= heartbeat + heartbeat / 8n;
    this.looked = now;
    for (const peer of this.peers.values()) {
      if (peer.state === "DOWN") continue;
      if (away) peer.heard = peer.greeted = now;
      const since = peer.heard > peer.greeted ? peer.heard : peer.greeted;
      if (now - since >= liveness && (peer.state === "UP" || peer.epoch > 0n || !peer.keep)) {
        this.lose(peer, "silent", peer.reason || `not heard for ${Number(liveness) / 1e9} s`);
      } else if (peer.state === "UP" && now - peer.sent >= heartbeat - heartbeat / 4n) {
        this.tell(peer.name, "session.heartbeat", {});
      }
    }
    this.driver.at(now + heartbeat / 8n, () => this.look());
  }

  // Who is who, and in what order it is heard (1 §2.6, §4.7, §4.8).

  /** Why a peer cannot greet in a role, if it cannot. */
  private wrong(name: string, role: Role): [Code, string] | undefined {
    const broker = this.peers.get(this.broker);
    const introduced = this.introduced.get(name);
    const known = introduced ?? this.roles.get(name);
    if (known ? known !== role : role === "broker")
      return ["DENIED", `${name} says that its role is ${role}, but it is ${known ?? "another"}`];
    if (name === this.broker || introduced || !broker?.capabilities.includes("introductions")) return undefined;
    this.disown(broker, `${name} was not introduced`);
    return ["NO_SESSION", `${name} has not been introduced yet`];
  }

  private introduction(teller: string, { node, role, incarnation, epoch }: Message): void {
    if (teller !== this.broker || node === this.broker || node === this.name)
      return this.refuse(teller, epoch, 0n, "DENIED", `${teller} cannot introduce ${node}`, "1 §4.7");
    if (!this.introduced.has(node) && this.introduced.size >= MAX_PEERS) this.leave([...this.introduced.keys()][0]);
    this.introduced.set(node, role);
    if (incarnation > (this.arrivals.get(node)?.epoch ?? 0n)) this.listenAnew(node, incarnation);
  }

  private revocation(teller: string, { node, epoch }: Message): void {
    if (teller !== this.broker || node === this.broker || node === this.name)
      return this.refuse(teller, epoch, 0n, "DENIED", `${teller} cannot revoke ${node}`, "1 §4.7");
    this.leave(node);
    const peer = this.peers.get(node);
    if (peer && peer.state !== "DOWN") this.lose(peer, "silent", "its key is not authorized any more");
  }

  private leave(node: string): void {
    this.introduced.delete(node);
    this.arrivals.get(node)?.close();
    this.arrivals.delete(node);
  }

  private listenAnew(name: string, epoch: bigint): Arrival {
    this.arrivals.get(name)?.close();
    const arrival = new Arrival(this.driver, this.times.liveness / 3n, epoch, (data) => this.receive(name, data));
    this.arrivals.set(name, arrival);
    return arrival;
  }

  private fence(name: string, data: Uint8Array): void {
    let message: Message;
    try {
      message = decode(data);
    } catch {
      return this.receive(name, data); // which refuses it
    }
    let arrival = this.arrivals.get(name);
    if (!arrival || message.peer_epoch !== this.epoch || message.epoch < arrival.epoch) return;
    if (message.epoch > arrival.epoch) arrival = this.listenAnew(name, message.epoch);
    if (message.type !== "session.fence") return;
    arrival.fence(message.part, message.number);
    if (message.part === "end") return;
    const fields = { epoch: this.epoch, peer_epoch: message.epoch, cause_id: this.driver.cause, request_id: 0n };
    this.transmit(name, encode({ type: "session.fenced", ...fields, number: message.number }));
  }

  private report(answer: Answer): void {
    const up = [...this.peers.values()].filter((peer) => peer.state === "UP").map((peer) => peer.name);
    const relayed = up.sort().slice(0, MAX_REPORTED_PEERS);
    answer.ok("session.report", { relayed, unnamed: BigInt(up.length - relayed.length) });
  }

  // Requests and replies.

  private exchange(name: string, peer: Peer | undefined, message: Message): void {
    const goodbye = message.type === "session.goodbye";
    const no = (code: Code, text: string) => {
      if (!goodbye) this.refuse(name, message.epoch, 0n, code, text, "1 §4.3");
    };
    if (!peer || peer.epoch === 0n || peer.state === "DOWN") return no("NO_SESSION", "greet first");
    if (message.epoch < peer.epoch) return;
    if (peer.state === "GREETING" && message.epoch === peer.epoch && message.peer_epoch === this.epoch) return;
    if (peer.state !== "UP" || message.epoch > peer.epoch) return no("NO_SESSION", "greet first");
    if (message.peer_epoch !== this.epoch) return no("STALE", `this incarnation is ${this.epoch}`);
    peer.heard = this.driver.now;
    const kind = KINDS[message.type];
    const not = forbidden(message.type, peer.role);
    if (not) {
      const id = kind.answeredBy ? message.request_id : 0n;
      return this.refuse(name, message.epoch, id, not.code, not.text, not.rule);
    }
    if (goodbye) this.lose(peer, "left", message.reason || "it left");
    else if (kind.reply) this.reply(peer, message);
    else if (kind.answeredBy) this.request(peer, message);
    else this.signals.get(message.type)?.(name, message);
  }

  private request(peer: Peer, message: Message): void {
    const id = message.request_id;
    const before = peer.answers.get(id);
    if (before) return this.transmitTo(peer, before);
    if (peer.owed.has(id)) return;
    const no = (code: Code, text: string, rule = "1 §4.4") => this.refuse(peer.name, message.epoch, id, code, text, rule);
    if (id <= peer.forgotten) return no("EXPIRE", "answered too long ago");
    const server = this.servers.get(message.type);
    if (!server) return no("UNKNOWN_TYPE", `an agent does not serve ${message.type}`, "1 §3.5");
    if (peer.owed.size >= MAX_ANSWERED_REQUESTS) return no("LIMIT", `${MAX_ANSWERED_REQUESTS} requests are owed their answer`);
    if (peer.owed.size + peer.answers.size >= MAX_ANSWERED_REQUESTS) peer.forgetOldest();
    peer.owed.add(id);
    const epoch = peer.epoch;
    const answer = new Answer((type, fields) => {
      if (peer.epoch !== epoch) return; // Only the incarnation that asked is answered.
      const data = encode(this.message(peer, type, fields, id));
      peer.remember(id, data);
      if (peer.state === "UP") this.transmitTo(peer, data);
    });
    server(peer.name, message, answer);
  }

  private reply(peer: Peer, message: Message): void {
    const asked = peer.asked.get(message.request_id);
    if (!asked?.data) return;
    if (message.type === KINDS[asked.type].answeredBy) return this.end(peer, asked, message);
    const text = `${message.type} does not answer ${asked.type}`;
    this.refuse(peer.name, message.epoch, 0n, "PROTOCOL", text, "1 §4.4");
    this.end(peer, asked, this.verdict("PROTOCOL", text));
  }

  private error(name: string, message: Message): void {
    const peer = this.peers.get(name);
    if (message.peer_epoch !== 0n && message.peer_epoch !== this.epoch) return;
    if (message.epoch !== 0n && peer && message.epoch < peer.epoch) return;
    if (message.code === "NO_ROUTE") {
      const lost = name === this.broker ? this.peers.get(message.peer) : undefined;
      if (lost) this.disown(lost, message.text);
      return;
    }
    if (!peer || peer.state === "DOWN") return;
    if (peer.state === "UP" && message.epoch === peer.epoch) peer.heard = this.driver.now;
    const ends = ["VERSION", "STALE", "LIMIT", "DENIED"].includes(message.code);
    if (peer.state === "GREETING" && ends && peer.hellos.includes(message.request_id)) {
      return this.lose(peer, "silent", `${message.code} ${message.text}`);
    }
    if (message.code === "NO_SESSION" || message.code === "STALE") return this.disown(peer, message.text);
    const asked = peer.asked.get(message.request_id);
    if (asked) this.end(peer, asked, message);
    else if (message.request_id === 0n) console.error(`${name} says ${message.code} (${message.rule}): ${message.text}`);
  }

  private repeat(peer: Peer, asked: Asked, anew = false): void {
    if (asked.again) asked.again.gone = true;
    if (peer.state === "UP") {
      asked.data ??= encode({ ...this.message(peer, asked.type, asked.fields, asked.id), cause_id: asked.cause });
      this.transmitTo(peer, asked.data);
    }
    const { interval } = asked;
    asked.again = this.driver.at(this.driver.now + interval, () => this.repeat(peer, asked));
    const doubled = 2n * interval;
    if (!anew) asked.interval = doubled < this.times.retryLimit ? doubled : this.times.retryLimit;
  }

  private end(peer: Peer, asked: Asked, reply: Message, loss?: Loss): void {
    if (!peer.asked.delete(asked.id)) return;
    this.pending -= 1;
    if (asked.again) asked.again.gone = true;
    if (asked.deadline) asked.deadline.gone = true;
    asked.answered(reply, loss);
  }

  private verdict(code: Code, text: string): Message {
    return { type: "session.error", epoch: 0n, peer_epoch: 0n, cause_id: "", request_id: 0n, code, text };
  }

  private message(peer: Peer, type: string, fields: Fields, id: bigint): Message {
    return { ...fields, type, epoch: this.epoch, peer_epoch: peer.epoch, cause_id: this.driver.cause, request_id: id };
  }

  private refuse(name: string, epoch: bigint, id: bigint, code: Code, text: string, rule: string): void {
    const message = {
      type: "session.error",
      epoch: this.epoch,
      peer_epoch: epoch,
      cause_id: this.driver.cause,
      request_id: id,
    };
    this.transmit(name, encode({ ...message, code, text: text.slice(0, 1024), rule }));
  }

  private send(peer: Peer, message: Message, sending?: () => void): void {
    this.transmitTo(peer, encode(message), sending);
  }

  private transmitTo(peer: Peer, data: Uint8Array, sending?: () => void): void {
    peer.sent = this.driver.now;
    this.transmit(peer.name, data, sending);
  }
}
