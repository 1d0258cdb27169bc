// What the parts of a node share: its settings, and what its links are asked for (2 §1.2, §2).
import { BrightStates } from "./bright.js";
import { Clock } from "./clock.js";
import { Driver, Timer } from "./driver.js";
import { Hardware } from "./hardware.js";
import type { Half } from "./pairs.js";
import { Endpoint } from "./session.js";
import { Code, Fields } from "./wire.js";

export interface LinkSettings {
  linkId: string;
  peer: string;
  station: string;
  primary: boolean;
  scheme: string;
  attempts: number;
  goodness: number;
  /** Of schemes that have them. */
  bright?: BrightStates;
  pairTime: bigint;
  windowTimeout: bigint;
  reportTimeout: bigint;
  pairLifetime: bigint;
  backoff: bigint;
  guard: bigint;
  lead: bigint;
}

export interface Node {
  name: string;
  epoch: bigint;
  driver: Driver;
  endpoint: Endpoint;
  clock: Clock;
  hardware: Hardware;
  applicationTimeout: bigint;
  retry: bigint;
  /** Whether an application may use this node, or a neighbour for its sake (1 §2.6). */
  mayUse(application: string): boolean;
}

/** A request in the queue of a link, at either end. */
export class Request {
  state: "OFFERED" | "QUEUED" | "DONE" | "FAILED" = "QUEUED";
  /** Pairs confirmed, and windows and pairs under way. */
  confirmed = 0;
  underWay = 0;
  /** Whether the primary has opened a window for it. */
  begun = false;
  timer?: Timer;
  waiting: Half[] = [];
  /** Who was not sure enough of the time when a window was to be opened, and how much it may be off. */
  unsure?: string;

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
