// A node agent: `node main.js SETTINGS.json [--until-eof]`. The settings are those that the conformance kit writes, and
// optionally `world`: { endpoint, key }, without which the hardware is scripted.
import { readFileSync } from "node:fs";
import { Dealer } from "zeromq";
import { Role } from "./access.js";
import { BrightStates } from "./bright.js";
import { Clock } from "./clock.js";
import { Driver } from "./driver.js";
import { Gates } from "./gates.js";
import { Backend, Hardware, ScriptedBackend, WorldBackend } from "./hardware.js";
import { Link, SCHEMES } from "./link.js";
import { LinkSettings, Node } from "./model.js";
import { Programs } from "./programs.js";
import { Answer } from "./peer.js";
import { Endpoint, Times } from "./session.js";
import { Fields, Message } from "./wire.js";

const BROKER = "broker";
const MAX_BACKLOG = 65536;

const ns = (milliseconds: number): bigint => BigInt(Math.round(milliseconds * 1e6));

/** The keys in a ZeroMQ certificate. */
function certificate(path: string): { publicKey: string; secretKey: string } {
  const text = readFileSync(path, "utf8");
  const key = (name: string) => new RegExp(`${name}-key\\s*=\\s*"(.{40})"`).exec(text)?.[1] ?? "";
  return { publicKey: key("public"), secretKey: key("secret") };
}

/** One connection: frames are [peer][message] (1 §2.3). What cannot be sent is dropped: requests are repeated. */
class Connection {
  receive: (peer: string, data: Uint8Array) => void = () => {};
  private readonly socket: Dealer;
  private readonly queue: { peer: string; data: Uint8Array; sending?: () => void }[] = [];
  private idle = true;

  constructor(endpoint: string, serverKey: string, own: { publicKey: string; secretKey: string }) {
    this.socket = new Dealer({
      curveServerKey: serverKey,
      curvePublicKey: own.publicKey,
      curveSecretKey: own.secretKey,
      sendTimeout: 0,
      linger: 500,
      reconnectInterval: 50,
    });
    this.socket.connect(endpoint);
  }

  async run(): Promise<void> {
    for await (const frames of this.socket) if (frames.length === 2) this.receive(frames[0].toString(), frames[1]);
  }

  send(peer: string, data: Uint8Array, sending?: () => void): void {
    if (this.queue.length < MAX_BACKLOG) this.queue.push({ peer, data, sending });
    if (this.idle) void this.drain();
  }

  private async drain(): Promise<void> {
    this.idle = false;
    for (let next = this.queue.shift(); next; next = this.queue.shift()) {
      next.sending?.();
      try {
        await this.socket.send([next.peer, next.data]);
      } catch (error) {
        if ((error as { code?: string }).code !== "EAGAIN") throw error;
      }
    }
    this.idle = true;
  }

  async close(): Promise<void> {
    while (!this.idle) await new Promise(setImmediate);
    this.socket.close();
  }
}

function linkSettings(own: string, linkId: string, table: Fields): LinkSettings {
  if (!Object.hasOwn(SCHEMES, table.scheme))
    throw new Error(`links.${linkId}: this agent does not know scheme ${table.scheme}`);
  if (table.station === own) throw new Error(`links.${linkId}: this agent is no receiver of ${table.scheme}`);
  const bright: BrightStates | undefined = table.bright_states?.length ? table.bright_states : undefined;
  if ((table.scheme === "single-click") !== (bright !== undefined))
    throw new Error(`links.${linkId}: ${table.scheme} and bright_states do not fit`);
  for (const unknown of ["shared_detectors", "test_every"])
    if (table[unknown] && table[unknown].length !== 0) throw new Error(`links.${linkId}: this agent does not know ${unknown}`);
  return {
    linkId,
    peer: table.peer,
    station: table.station,
    primary: table.primary,
    scheme: table.scheme,
    attempts: table.attempts ?? 1,
    goodness: table.goodness ?? 1,
    bright,
    pairTime: ns(table.pair_time_ms ?? 0),
    windowTimeout: ns(table.window_timeout_ms ?? 2000),
    reportTimeout: ns(table.report_timeout_ms ?? 500),
    pairLifetime: ns(table.pair_lifetime_ms ?? 5000),
    backoff: ns(table.backoff_ms ?? 2),
    guard: ns(table.guard_ms ?? 10),
    lead: ns(table.lead_ms ?? 0),
  };
}

/** Who may send what (1 §2.6, 2 §5), and to whom it goes. */
function serve(node: Node, links: Map<string, Link>, programs: Programs, gates: Gates): void {
  const { endpoint } = node;
  const ofLink = (
    type: string,
    from: "peer" | "station" | "primary",
    act: (link: Link, message: Message, answer: Answer) => void,
  ) =>
    endpoint.serve(type, (peer, message, answer) => {
      const link = links.get(message.link_id);
      if (!link) return answer.refuse("UNKNOWN_ID", `there is no link ${message.link_id.slice(0, 64)}`, "2 §5");
      const { settings } = link;
      const may = peer === (from === "station" ? settings.station : settings.peer) && !(from === "primary" && settings.primary);
      if (!may) return answer.refuse("DENIED", `${type} is not taken from ${peer}`, "2 §5");
      act(link, message, answer);
    });
  /** Whether an application, or a neighbour for the sake of one, is refused. */
  const denied = (application: string, answer: Answer): boolean => {
    const may = application === "" || node.mayUse(application);
    if (!may) answer.refuse("DENIED", `${application} may not use ${node.name}`, "1 §2.6");
    return !may;
  };
  const ofApplication = (type: string, act: (peer: string, message: Message, answer: Answer) => void) =>
    endpoint.serve(type, (peer, message, answer) => denied(peer, answer) || act(peer, message, answer));
  ofLink("link.add", "peer", (link, message, answer) => denied(message.application, answer) || link.add(message, answer));
  ofLink("herald.open", "primary", (link, message, answer) => link.follow(message, answer));
  ofLink("herald.close", "peer", (link, message, answer) => link.close(message, answer));
  ofLink("herald.wait", "station", (_link, _message, answer) => answer.ok("session.ack"));
  ofLink("herald.report", "station", (link, message, answer) => {
    answer.ok("session.ack");
    link.report(message);
  });
  ofLink("pair.confirm", "primary", (link, message, answer) => link.pairs.confirming(message, answer));
  ofLink("pair.release", "peer", (link, message, answer) => link.pairs.released(message, answer));
  ofLink("pair.outcome", "primary", (link, message, answer) => link.pairs.outcome(message, answer));
  ofApplication("link.create", (peer, message, answer) => {
    const link = [...links.values()].find((each) => each.settings.peer === message.peer);
    if (!link) return answer.refuse("UNSUPP", `there is no link to ${message.peer}`, "2 §2.1");
    const no = link.refusal(message, message.max_time_ns);
    if (no) return answer.refuse(...no, "2 §2.1");
    const {
      type: _type,
      epoch: _epoch,
      peer_epoch: _peerEpoch,
      cause_id: _cause,
      request_id: _id,
      peer: _peer,
      max_time_ns,
      ...wanted
    } = message;
    const request = link.create(wanted, node.driver.networkNow + max_time_ns, peer);
    answer.ok("link.created", { create_id: request.id });
  });
  ofApplication("program.run", (peer, message, answer) => programs.run(peer, message, answer));
  ofApplication("gate.request", (peer, message, answer) => gates.request(peer, message, answer));
  endpoint.serve(
    "gate.open",
    (peer, message, answer) => denied(message.application, answer) || gates.opened(peer, message, answer),
  );
  endpoint.serve("gate.outcome", (peer, message, answer) => gates.outcome(peer, message, answer));
}

function main(settings: Fields, untilEof: boolean): void {
  const driver = new Driver();
  const epoch = BigInt(Date.now()) * 1_000_000n + (process.hrtime.bigint() % 1_000_000n);
  const times: Times = {
    heartbeat: ns(settings.times.heartbeat_ms),
    liveness: ns(settings.times.liveness_ms),
    retry: ns(settings.times.retry_ms),
    retryLimit: ns(settings.times.retry_limit_ms),
  };
  const own = certificate(`${settings.keys}/${settings.name}.key_secret`);
  const roles = new Map<string, Role>([[BROKER, "broker"]]);
  for (const link of Object.values(settings.links as Fields)) roles.set(link.station, "station").set(link.peer, "agent");
  const connections: Connection[] = [];
  const endpoints: Endpoint[] = [];
  const connect = (server: string, address: string): Endpoint => {
    const connection = new Connection(address, certificate(`${settings.keys}/${server}.key`).publicKey, own);
    const endpoint = new Endpoint(driver, settings.name, epoch, BROKER, times, roles, (peer, data, sending) =>
      connection.send(peer, data, sending),
    );
    connection.receive = (peer, data) => driver.stimulus(() => endpoint.arrive(peer, data));
    connections.push(connection);
    endpoints.push(endpoint);
    return endpoint;
  };

  const endpoint = connect(BROKER, settings.endpoint);
  const scripted = new Map([
    ["c0", "communication"],
    ["s0", "storage"],
    ["s1", "storage"],
  ] as const);
  const backend: Backend = settings.world
    ? new WorldBackend(driver, connect(settings.world.name, settings.world.endpoint), settings.world.name)
    : new ScriptedBackend(driver, scripted);
  const hardware = new Hardware(backend);
  const clock = new Clock(driver, endpoint, BROKER, ns(settings.times.time_interval_ms ?? 1000));
  const node: Node = {
    name: settings.name,
    epoch,
    driver,
    endpoint,
    clock,
    hardware,
    retry: times.retry,
    applicationTimeout: ns(settings.times.application_timeout_ms ?? 2000),
    mayUse: (application) => settings.applications?.includes(application) ?? true,
  };
  const links = new Map(
    Object.entries(settings.links as Fields).map(([id, table]) => [id, new Link(node, linkSettings(node.name, id, table))]),
  );
  const programs = new Programs(node, links);
  const gates = new Gates(node, links, programs);
  serve(node, links, programs, gates);

  endpoint.onLost.push((peer, loss, reason) => {
    gates.lost(peer, loss, reason);
    for (const link of links.values()) link.lost(peer, loss, reason);
    programs.lost(peer);
  });
  hardware.onLost.push(() => {
    gates.hardwareLost();
    for (const link of links.values()) link.hardwareLost();
    programs.hardwareLost();
  });
  let ready = false;
  driver.afterwards.unshift(() => {
    for (;;) {
      const waiting = [...links.values()].filter((link) => link.waiting.length > 0);
      const qubit = waiting.length > 0 ? hardware.take("communication") : undefined;
      if (qubit === undefined) break;
      waiting.sort((one, other) => Number(one.waiting[0].since - other.waiting[0].since))[0].serveWaiting(qubit);
    }
    for (const link of links.values()) link.pump();
    if (ready || !endpoint.isUp(BROKER) || !hardware.connected || clock.uncertainty() === undefined) return;
    ready = true;
    console.log(JSON.stringify({ ready: settings.name }));
  });

  let closing = false;
  const close = async () => {
    if (closing) return;
    closing = true;
    driver.stimulus(() => endpoints.forEach((each) => each.close("the agent ends")));
    driver.stop();
    await Promise.all(connections.map((each) => each.close()));
    process.exit(0);
  };
  process.on("SIGTERM", () => void close());
  process.on("SIGINT", () => void close());
  if (untilEof) process.stdin.on("end", () => void close()).resume();

  for (const connection of connections) void connection.run();
  driver.stimulus(() => endpoint.keep(BROKER));
  backend.open();
}

const [path, ...flags] = process.argv.slice(2);
main(JSON.parse(readFileSync(path, "utf8")), flags.includes("--until-eof"));
