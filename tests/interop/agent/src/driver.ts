// Stimuli, one after another, and time (1 §2.4). Times are nanoseconds of this process's own monotonic clock.

export interface Timer {
  at: bigint;
  act: () => void;
  gone: boolean;
}

/** Things to do at times of one clock. */
class Agenda {
  private timers: Timer[] = [];

  add(at: bigint, act: () => void): Timer {
    const timer = { at, act, gone: false };
    const place = this.timers.findIndex((other) => other.at > at);
    this.timers.splice(place < 0 ? this.timers.length : place, 0, timer);
    return timer;
  }

  next(): Timer | undefined {
    while (this.timers[0]?.gone) this.timers.shift();
    return this.timers[0];
  }
}

/** Gives stimuli to the node one at a time, what has come due first. */
export class Driver {
  now = process.hrtime.bigint();
  /** When the frame of the present stimulus was taken from its socket. */
  arrived = this.now;
  /** What is to be done at the end of every stimulus. */
  readonly afterwards: (() => void)[] = [];
  /** The network's time less the own clock's, as believed. */
  offset: (now: bigint) => bigint = () => 0n;
  private readonly local = new Agenda();
  private readonly network = new Agenda();
  private alarm: NodeJS.Timeout | undefined;
  private count = 0;
  private stopped = false;

  /** Names the present stimulus (1 §7). */
  get cause(): string {
    return `stimulus-${this.count}`;
  }

  get networkNow(): bigint {
    return this.now + this.offset(this.now);
  }

  at(when: bigint, act: () => void): Timer {
    return this.local.add(when, act);
  }

  /** Do something at a time of the network, whatever is learnt of it until then (4 §3.3). */
  atNetwork(when: bigint, act: () => void): Timer {
    return this.network.add(when, act);
  }

  stimulus(act: () => void): void {
    if (this.stopped) return;
    const arrived = process.hrtime.bigint();
    this.due();
    this.arrived = arrived;
    this.take(act);
    this.arm();
  }

  private due(): void {
    for (;;) {
      const now = process.hrtime.bigint();
      const local = this.local.next();
      const network = this.network.next();
      const timer = local && local.at <= now ? local : network && network.at <= now + this.offset(now) ? network : undefined;
      if (!timer) return;
      timer.gone = true;
      this.take(timer.act);
    }
  }

  private take(act: () => void): void {
    this.now = process.hrtime.bigint();
    this.count += 1;
    act();
    for (const each of this.afterwards) each();
  }

  /** Take no more stimuli. */
  stop(): void {
    this.stopped = true;
    clearTimeout(this.alarm);
  }

  private arm(): void {
    clearTimeout(this.alarm);
    const now = process.hrtime.bigint();
    const left = [this.local.next()?.at, this.networkNext(now)]
      .filter((at) => at !== undefined)
      .map((at) => Number(at - now) / 1e6);
    if (left.length > 0)
      this.alarm = setTimeout(() => this.stimulus(() => {}), Math.min(Math.max(Math.ceil(Math.min(...left)), 0), 2 ** 30));
  }

  private networkNext(now: bigint): bigint | undefined {
    const timer = this.network.next();
    return timer && timer.at - this.offset(now);
  }
}
