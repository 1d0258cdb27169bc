// Who may send what to an agent (1 §2.6). What has no row here an agent does not take.
import { Code } from "./wire.js";

export type Role = "agent" | "station" | "broker" | "world" | "application" | "observer";

const EVERYBODY: readonly Role[] = ["agent", "station", "broker", "world", "application", "observer"];
const CLOCKS: readonly Role[] = ["agent", "station", "broker"];

/** The messages of a session that an agent takes, and the roles that may send them. */
const TAKEN: Record<string, readonly Role[]> = {
  "session.heartbeat": EVERYBODY,
  "session.goodbye": EVERYBODY,
  "session.ack": EVERYBODY,
  "session.introduction": ["broker"],
  "session.revocation": ["broker"],
  "session.status": ["application"],
  "event.notice": ["broker"],
  "link.create": ["application"],
  "link.add": ["agent"],
  "link.accept": ["agent"],
  "herald.open": ["agent"],
  "herald.close": ["agent"],
  "herald.ready": ["agent", "station"],
  "herald.report": ["agent", "station"],
  "herald.wait": ["station"],
  "pair.confirm": ["agent"],
  "pair.confirmed": ["agent"],
  "pair.release": ["agent"],
  "pair.outcome": ["agent"],
  "pair.compared": ["agent"],
  "gate.request": ["application"],
  "gate.open": ["agent"],
  "gate.ready": ["agent"],
  "gate.outcome": ["agent"],
  "gate.done": ["agent"],
  "program.run": ["application"],
  "time.lease": CLOCKS,
  "time.grant": CLOCKS,
  "time.announce": CLOCKS,
  "time.sync": CLOCKS,
  "time.delay_req": CLOCKS,
  "time.follow_up": CLOCKS,
  "time.delay_resp": CLOCKS,
  "time.status": [...CLOCKS, "application"],
  "time.report": CLOCKS,
  "world.description": ["world"],
  "world.complete": ["world"],
};

/** Why a role may not send a message to an agent, if it may not. */
export function forbidden(type: string, role: Role | undefined): { code: Code; text: string; rule: string } | undefined {
  if (!Object.hasOwn(TAKEN, type)) return { code: "UNKNOWN_TYPE", text: `an agent does not take ${type}`, rule: "1 §3.5" };
  if (role && TAKEN[type].includes(role)) return undefined;
  return { code: "DENIED", text: `${type} is not for the role ${role} to send`, rule: "1 §2.6" };
}
