// Messages: what a map has to hold, and MessagePack around it (1 §3).
import { Decoder, encode as pack } from "@msgpack/msgpack";

export const MAX_MESSAGE_BYTES = 65536;
export const INT64_MAX = 2n ** 63n - 1n;

/** A message as it is used here. Integers that may exceed 32 bits are bigint. */
export type Fields = Record<string, any>;
export interface Message extends Fields {
  type: string;
  epoch: bigint;
  peer_epoch: bigint;
  cause_id: string;
  request_id: bigint;
}

export const CODES = [
  "UNSUPP",
  "NOTIME",
  "NORES",
  "TIMEOUT",
  "REJECTED",
  "OTHER",
  "EXPIRE",
  "PROTOCOL",
  "MALFORMED",
  "OVERSIZE",
  "UNKNOWN_TYPE",
  "VERSION",
  "NO_SESSION",
  "STALE",
  "NO_ROUTE",
  "PEER_LOST",
  "DENIED",
  "UNKNOWN_ID",
  "BACKEND",
  "INDETERMINATE",
  "UNSYNCED",
  "LIMIT",
] as const;
export type Code = (typeof CODES)[number];

/** Why something is no message: the code, and as much of the common fields as could be read (1 §3.5). */
export class Refused extends Error {
  constructor(
    readonly code: Code,
    text: string,
    readonly requestId = 0n,
    readonly epoch = 0n,
    readonly type?: unknown,
  ) {
    super(text);
  }
}

/** A float as it came, to be told from an integer. */
class Float {
  constructor(readonly value: number) {}
}

type Rule = (value: unknown) => unknown;
type Field = Rule | { rule: Rule; otherwise: unknown };
type Table = Record<string, Field>;

const fail = (expected: string, value: unknown): never => {
  throw new Refused("MALFORMED", `expected ${expected}, got ${value instanceof Float ? `float ${value.value}` : typeof value}`);
};
const or = (rule: Rule, otherwise: unknown): Field => ({ rule, otherwise });

/** Above this the library would write a number as a float. */
const MAX_NUMBER = 2n ** 32n - 1n;

const int =
  (low: bigint, high: bigint): Rule =>
  (value) => {
    const whole =
      typeof value === "bigint" ? value : Number.isInteger(value) ? BigInt(value as number) : fail("an integer", value);
    if (whole < low || whole > high) fail(`an integer from ${low} to ${high}`, value);
    return high > MAX_NUMBER ? whole : Number(whole);
  };
const float =
  (low: number, high: number): Rule =>
  (value) => {
    const number = value instanceof Float ? value.value : typeof value === "bigint" ? Number(value) : value;
    if (typeof number !== "number" || !(number >= low && number <= high)) fail(`a number from ${low} to ${high}`, value);
    return number;
  };
const text =
  (low: number, high: number, form?: RegExp): Rule =>
  (value) => {
    if (typeof value !== "string") return fail("a string", value);
    const length = [...value].length;
    if (length < low || length > high || (form && !form.test(value))) fail(`a string of ${low} to ${high} characters`, value);
    return value;
  };
const one =
  (...values: readonly string[]): Rule =>
  (value) =>
    typeof value === "string" && values.includes(value) ? value : fail(`one of ${values.join(", ")}`, value);
const flag: Rule = (value) => (typeof value === "boolean" ? value : fail("a boolean", value));
const list =
  (rule: Rule, low: number, high: number): Rule =>
  (value) => {
    if (!Array.isArray(value) || value.length < low || value.length > high) return fail(`an array of ${low} to ${high}`, value);
    return value.map(rule);
  };
const nil =
  (rule: Rule): Rule =>
  (value) =>
    value === null ? null : rule(value);
const bytes =
  (low: number, high: number): Rule =>
  (value) =>
    value instanceof Uint8Array && value.length >= low && value.length <= high
      ? value
      : fail(`${low} to ${high} octets`, value);
const map =
  (table: Table): Rule =>
  (value) => {
    if (
      typeof value !== "object" ||
      value === null ||
      Array.isArray(value) ||
      value instanceof Float ||
      value instanceof Uint8Array
    )
      return fail("a map", value);
    return read(table, value as Fields);
  };

function read(table: Table, given: Fields): Fields {
  const found: Fields = {};
  for (const [name, field] of Object.entries(table)) {
    const rule = typeof field === "function" ? field : field.rule;
    if (!Object.hasOwn(given, name)) {
      if (typeof field === "function") throw new Refused("MALFORMED", `the field ${name} is missing`);
      found[name] = field.otherwise;
      continue;
    }
    try {
      found[name] = rule(given[name]);
    } catch (error) {
      if (error instanceof Refused) throw new Refused("MALFORMED", `${name}: ${error.message}`);
      throw error;
    }
  }
  return found;
}

const natural = int(0n, INT64_MAX);
const duration = int(1n, 10n ** 18n);
const uncertainty = int(0n, 10n ** 18n);
const bit = int(0n, 1n);
const id = text(1, 160);
const idOrNone = text(0, 160);
const words = text(0, 1024);
const nodeName = text(1, 64, /^[A-Za-z0-9][A-Za-z0-9_.-]*$/);
const place = text(1, 256, /^tcp:\/\/[^\s:/]+:[0-9]{1,5}$/u);
const positive = int(1n, INT64_MAX);
const operand = text(1, 160, /^[^\s:]+$/u);
const ratio = float(0, 1);
const bell = one("phi+", "phi-", "psi+", "psi-");
const role = one("agent", "station", "broker", "world", "application", "observer");
const basis = one("z", "x", "y", "z+pi/4", "z-pi/4", "rotated");
const kind = one("cz", "cnot", "state");
const variant = one("sequential", "symmetric");
const gate = one("x", "y", "z", "h", "s", "sdg", "sx", "sxdg", "t", "tdg", "rx", "ry", "rz", "cx", "cz", "swap");
const lease = int(10_000_000n, 3_600_000_000_000n);
const code = one(...CODES);

const READOUT: Table = {
  bases: or(list(basis, 1, 3), ["z"]),
  weights: or(list(int(0n, 255n), 0, 3), []),
  rotation: or(list(float(-2 * Math.PI, 2 * Math.PI), 0, 3), []),
};
const Z_READOUT = { bases: ["z"], weights: [], rotation: [] };
const WANTED: Table = {
  number: or(int(1n, 1_000_000n), 1),
  min_fidelity: or(ratio, 0),
  purpose_id: or(int(0n, 65535n), 0),
  priority: or(int(0n, 7n), 0),
  request_type: or(one("K", "M"), "K"),
  atomic: or(flag, false),
  consecutive: or(flag, false),
  local: or(map(READOUT), Z_READOUT),
  remote: or(map(READOUT), Z_READOUT),
};
const WINDOW: Table = { link_id: id, window_id: id };
const PAIR: Table = { link_id: id, pair_id: id };
const OK: Table = {
  create_id: id,
  pair_id: id,
  sequence_number: natural,
  purpose_id: int(0n, 65535n),
  peer: nodeName,
  originator: flag,
  bell_state: bell,
  goodness: ratio,
  goodness_low: or(ratio, 0),
  goodness_high: or(ratio, 1),
  goodness_estimated: or(flag, false),
  time_of_goodness_ns: natural,
  confirmed_ns: natural,
};
const GREETING: Table = { role, capabilities: or(list(nodeName, 0, 64), []), heartbeat_ns: duration };
const STEP: Table = {
  kind: one("initialise", "apply", "measure", "release"),
  qubits: list(operand, 1, 2),
  gate: or(nil(gate), null),
  angle: or(float(-Infinity, Infinity), 0),
  reference: or(flag, false),
  gates_with: or(nil(list(nodeName, 0, 64)), null),
};
const ANYTHING: Rule = (value) => value;

interface Kind {
  fields: Table;
  reply?: boolean;
  answeredBy?: string;
}
const request = (answeredBy: string, fields: Table): Kind => ({ fields, answeredBy });
const reply = (fields: Table = {}): Kind => ({ fields, reply: true });
const signal = (fields: Table = {}): Kind => ({ fields });

/** Every message of the protocol that an agent may meet, and those of the family `world`, which its simulated backend speaks. */
export const KINDS: Record<string, Kind> = {
  "session.hello": request("session.welcome", {
    versions: list(int(1n, 65535n), 1, 16),
    ...GREETING,
    endpoints: or(list(place, 0, 8), []),
  }),
  "session.welcome": reply({ version: int(1n, 65535n), ...GREETING }),
  "session.heartbeat": signal(),
  "session.goodbye": signal({ reason: or(words, "") }),
  "session.ack": reply(),
  "session.error": reply({ code, text: or(words, ""), rule: or(words, ""), peer: or(text(0, 64), "") }),

  "session.introduction": signal({
    node: nodeName,
    role,
    public_key: bytes(32, 32),
    incarnation: positive,
    endpoints: or(list(place, 0, 8), []),
  }),
  "session.revocation": signal({ node: nodeName }),
  "session.fence": signal({ number: positive, part: one("end", "begin", "break") }),
  "session.fenced": signal({ number: positive }),
  "session.status": request("session.report", {}),
  "session.report": reply({
    direct: or(list(nodeName, 0, 256), []),
    relayed: or(list(nodeName, 0, 256), []),
    unnamed: or(natural, 0n),
  }),

  "event.notice": signal({
    topic: nodeName,
    publisher: nodeName,
    number: positive,
    about: or(idOrNone, ""),
    text: or(words, ""),
  }),

  "link.create": request("link.created", { ...WANTED, peer: nodeName, max_time_ns: duration }),
  "link.created": reply({ create_id: id }),
  "link.add": request("link.accept", {
    ...WANTED,
    link_id: id,
    create_id: id,
    deadline_ns: natural,
    application: or(text(0, 64), ""),
  }),
  "link.accept": reply(),
  "link.ok": request("session.ack", { ...OK, expires_ns: natural }),
  "link.measured": request("session.ack", { ...OK, basis, outcome: bit }),
  "link.err": request("session.ack", { create_id: id, code, text: or(words, "") }),
  "link.expire": request("session.ack", { create_id: id, sequence_low: natural, sequence_high: natural, text: or(words, "") }),
  "herald.open": request("herald.ready", {
    ...WINDOW,
    create_id: id,
    scheme: nodeName,
    start_ns: natural,
    attempts: int(1n, 2n ** 40n),
    timeout_ns: duration,
    bright_ratio: or(nil(ratio), null),
  }),
  "herald.ready": reply({ start_ns: or(nil(natural), null) }),
  "herald.wait": request("session.ack", { ...WINDOW, ahead: natural }),
  "herald.close": request("session.ack", { ...WINDOW, reason: or(words, "") }),
  "herald.report": request("session.ack", { ...WINDOW, attempt: int(0n, 2n ** 40n), bell_state: or(nil(bell), null) }),
  "pair.confirm": request("pair.confirmed", {
    ...PAIR,
    create_id: id,
    sequence_number: natural,
    bell_state: bell,
    expires_ns: natural,
  }),
  "pair.confirmed": reply(),
  "pair.release": request("session.ack", { ...PAIR, reason: or(words, "") }),
  "pair.outcome": request("pair.compared", { ...PAIR, outcome: bit }),
  "pair.compared": reply({ outcome: bit }),

  "gate.request": request("gate.result", {
    kind,
    variant: or(variant, "symmetric"),
    qubit: operand,
    peer: nodeName,
    peer_qubit: operand,
    pair_id: or(idOrNone, ""),
    min_fidelity: or(ratio, 0),
    max_time_ns: duration,
  }),
  "gate.result": reply({
    gate_id: id,
    status: one("done", "failed", "indeterminate"),
    pair_id: or(idOrNone, ""),
    code: or(nil(code), null),
    text: or(words, ""),
  }),
  "gate.open": request("gate.ready", {
    gate_id: id,
    pair_id: id,
    kind,
    variant,
    application: nodeName,
    qubit: operand,
    deadline_ns: natural,
  }),
  "gate.ready": reply(),
  "gate.outcome": request("gate.done", { gate_id: id, bits: list(bit, 1, 2) }),
  "gate.done": reply({ gate_id: id }),
  "program.run": request("program.result", { steps: list(map(STEP), 1, 1024) }),
  "program.result": reply({ bits: list(bit, 0, 1024), qubits: list(text(1, 64), 0, 1024) }),

  "time.lease": request("time.grant", { interval_ns: lease, exchanges: int(0n, 16n), lease_ns: lease }),
  "time.grant": reply({
    lease_ns: lease,
    path_id: or(natural, 0n),
    path_host: or(text(0, 45), ""),
    path_port: or(int(0n, 65535n), 0),
    path_key: or(bytes(0, 32), new Uint8Array()),
  }),
  "time.announce": signal({
    priority: int(0n, 255n),
    clock_class: int(0n, 255n),
    uncertainty_ns: uncertainty,
    grandmaster: nodeName,
    steps_removed: int(0n, 255n),
  }),
  "time.sync": signal({ sequence: int(1n, INT64_MAX), exchange: int(0n, 15n) }),
  "time.delay_req": signal({ sequence: int(1n, INT64_MAX) }),
  "time.follow_up": signal({ sequence: int(1n, INT64_MAX), origin_ns: natural, uncertainty_ns: uncertainty }),
  "time.delay_resp": signal({ sequence: int(1n, INT64_MAX), received_ns: natural }),
  "time.status": request("time.report", {}),
  "time.report": reply({
    state: one("freerun", "acquiring", "locked", "holdover"),
    source: or(text(0, 64), ""),
    grandmaster: or(text(0, 64), ""),
    offset_ns: or(int(-INT64_MAX, INT64_MAX), 0n),
    uncertainty_ns: or(nil(uncertainty), null),
    uncertainty_ps: or(nil(uncertainty), null),
    drift_ppb: or(int(-1_000_000_000n, 1_000_000_000n), 0),
    path_delay_ns: or(nil(natural), null),
    followers: or(list(nodeName, 0, 1024), []),
  }),

  "world.describe": request("world.description", { lease: or(natural, 0n) }),
  "world.description": reply({
    lease: natural,
    qubits: list(map({ name: text(1, 64), kind: one("communication", "storage", "reference") }), 0, 1024),
  }),
  "world.submit": request("world.complete", { lease: natural, number: natural, instructions: list(ANYTHING, 0, 1024) }),
  "world.complete": reply({ completions: list(ANYTHING, 0, 1024) }),
};

const COMMON: Table = {
  epoch: or(natural, 0n),
  peer_epoch: or(natural, 0n),
  cause_id: or(idOrNone, ""),
  request_id: or(natural, 0n),
};

/* The library gives floats and integers alike, and takes octets that are no UTF-8. Both have to be refused (1 §3.1), so what it
 * reads them with is replaced: its version is pinned. */
interface Innards {
  readF32(): unknown;
  readF64(): unknown;
  decodeBinary(length: number, head: number): Uint8Array;
  decodeUtf8String(length: number, head: number): string;
  decode(data: Uint8Array): unknown;
}
const NO_STRING = "\0key that is no string";

function makeDecoder(): Innards {
  const options = {
    useBigInt64: true,
    keyDecoder: null,
    mapKeyConverter: (key: unknown) => (typeof key === "string" ? key : NO_STRING),
  };
  const decoder = new Decoder(options) as unknown as Innards;
  const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const { readF32, readF64 } = decoder;
  decoder.readF32 = () => new Float(readF32.call(decoder) as number);
  decoder.readF64 = () => new Float(readF64.call(decoder) as number);
  decoder.decodeUtf8String = (length, head) => utf8.decode(decoder.decodeBinary(length, head));
  return decoder;
}

/** Decode a message. Throws `Refused` with the code to refuse it with. */
export function decode(data: Uint8Array): Message {
  if (data.length > MAX_MESSAGE_BYTES)
    throw new Refused("OVERSIZE", `${data.length} octets, at most ${MAX_MESSAGE_BYTES} are allowed`);
  let given: unknown;
  try {
    given = makeDecoder().decode(data);
  } catch (error) {
    throw new Refused("MALFORMED", `not MessagePack: ${(error as Error).message}`);
  }
  const [requestId, epoch] = common(given);
  try {
    return check(given);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    const type = (given as Fields | null)?.["type"];
    const answer = typeof type === "string" && KINDS[type]?.reply;
    throw new Refused(error.code, error.message, answer ? 0n : requestId, epoch, type);
  }
}

function check(given: unknown): Message {
  map({})(given);
  const fields = given as Fields;
  if (Object.hasOwn(fields, NO_STRING)) throw new Refused("MALFORMED", "expected a map with string keys");
  if (!Object.hasOwn(fields, "type")) throw new Refused("UNKNOWN_TYPE", "the message has no type");
  const type: unknown = fields.type;
  if (typeof type !== "string") throw new Refused("MALFORMED", "expected a string as type");
  if (!Object.hasOwn(KINDS, type)) throw new Refused("UNKNOWN_TYPE", `unknown type ${type.slice(0, 64)}`);
  return { type, ...read(COMMON, fields), ...read(KINDS[type as string].fields, fields) } as Message;
}

/** What could be read of `request_id` and `epoch`; nothing, if one of the common numbers is out of bounds (1 §3.5). */
function common(given: unknown): [bigint, bigint] {
  try {
    const numbers = map({ epoch: COMMON.epoch, peer_epoch: COMMON.peer_epoch, request_id: COMMON.request_id })(given) as Fields;
    return [numbers.request_id, numbers.epoch];
  } catch {
    return [0n, 0n];
  }
}

/** Encode a message, with the defaults of fields that were left out (1 §3.1). */
export function encode(message: Message): Uint8Array {
  const { type, ...rest } = message;
  const whole: Fields = { type, ...read(COMMON, rest), ...read(KINDS[type].fields, rest) };
  if (KINDS[type].answeredBy === undefined && !KINDS[type].reply) delete whole.request_id;
  return pack(whole, { useBigInt64: true });
}
