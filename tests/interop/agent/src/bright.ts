// Bright states: which fidelity a bright ratio gives, as it was calibrated (2 §3.1, §3.4).

/** Points of bright ratio and fidelity, of rising ratio, joined by straight lines. */
export type BrightStates = readonly (readonly [number, number])[];

/** What the arithmetic of floats may cost a fidelity. */
export const TOLERANCE = 1e-9;

const between = (x: number, [x0, y0]: readonly [number, number], [x1, y1]: readonly [number, number]): number =>
  y0 + ((y1 - y0) * (x - x0)) / (x1 - x0);

export const bestFidelity = (states: BrightStates): number => Math.max(...states.map(([, fidelity]) => fidelity));

/** The fidelity that a ratio gives; 0 outside of what was calibrated. */
export function fidelityAt(states: BrightStates, ratio: number): number {
  const place = states.findIndex(([each]) => each >= ratio);
  if (place < 0) return 0;
  if (states[place][0] === ratio) return states[place][1];
  return place === 0 ? 0 : between(ratio, states[place - 1], states[place]);
}

/** The largest ratio, so the fastest, that gives a fidelity; the least one calibrated when none does. */
export function ratioFor(states: BrightStates, fidelity: number): number {
  for (let place = states.length - 1; place > 0; place -= 1) {
    const [above, below] = [states[place - 1], states[place]];
    if (below[1] >= fidelity) return below[0];
    if (above[1] >= fidelity) return between(fidelity, [above[1], above[0]], [below[1], below[0]]);
  }
  return states[0][0];
}
