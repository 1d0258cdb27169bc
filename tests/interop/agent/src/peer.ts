// What an endpoint knows of one peer, and how a request is answered (1 §4.3, §4.4).
import { Role } from "./access.js";
import { Timer } from "./driver.js";
import { Code, Fields, Message } from "./wire.js";

export type Loss = "restarted" | "left" | "silent";

export const MAX_ANSWERED_REQUESTS = 2048;
const MAX_ANSWERED_BYTES = 4_194_304;

/** A request of one's own that awaits its answer. */
export interface Asked {
  id: bigint;
  type: string;
  fields: Fields;
  cause: string;
  data?: Uint8Array;
  interval: bigint;
  again?: Timer;
  deadline?: Timer;
  answered: (reply: Message, loss?: Loss) => void;
}

/** One session: its state, what is asked and owed in it, and the answers that were given. */
export class Peer {
  state: "DOWN" | "GREETING" | "UP" = "DOWN";
  epoch = 0n;
  role?: Role;
  capabilities: string[] = [];
  keep = false;
  heard = 0n;
  greeted = 0n;
  sent = 0n;
  hellos: bigint[] = [];
  retry?: Timer;
  reason = "";
  asked = new Map<bigint, Asked>();
  owed = new Set<bigint>();
  answers = new Map<bigint, Uint8Array>();
  forgotten = 0n;
  private answered = 0;

  constructor(readonly name: string) {}

  /** Keep an answer, to give it again; the oldest ones go when they are too many octets. */
  remember(id: bigint, data: Uint8Array): void {
    this.owed.delete(id);
    this.answers.set(id, data);
    this.answered += data.length;
    while (this.answered > MAX_ANSWERED_BYTES) this.forgetOldest();
  }

  forgetOldest(): void {
    const [[oldest, data]] = this.answers;
    this.answers.delete(oldest);
    this.answered -= data.length;
    if (oldest > this.forgotten) this.forgotten = oldest;
  }

  /** What a former incarnation asked is forgotten. */
  forgetAll(): void {
    this.owed.clear();
    this.answers.clear();
    this.answered = 0;
    this.forgotten = 0n;
  }
}

/** How a request is answered: once. */
export class Answer {
  private given = false;

  constructor(private readonly give: (type: string, fields: Fields) => void) {}

  ok(type: string, fields: Fields = {}): void {
    if (this.given) return;
    this.given = true;
    this.give(type, fields);
  }

  refuse(code: Code, text: string, rule = ""): void {
    this.ok("session.error", { code, text: text.slice(0, 1024), rule });
  }
}
