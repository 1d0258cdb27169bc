/* The gate handshake of chapter 3, between a source and a target, over a network that loses, repeats, delays and reorders,
 * with crash and restart of either end. What is modelled and what is not: README.md. Run by check.py.
 *
 * The network is a set: what was sent once may arrive at any later time, any number of times, or never. This is loss,
 * repetition by the network, delay, reordering and retransmission in one, without any timer. A delivery that changes nothing
 * (a repeat of what was dealt with) is no step, so every run is finite and one that stops before its end is a deadlock.
 *
 * Macros take one rule away, or add one thing that goes wrong, and so make a mutant: see check.py.
 */

#define SRC 0
#define TGT 1
#define GATES 2                       /* gate 1 may begin when gate 0 has ended at the source or the source has restarted */
#define X(e, g) ((e) * GATES + (g))

#define SEQUENTIAL 1
#define SYMMETRIC 2
#define STATE 3

/* A gate at one end (3 §2.2). GONE: the end crashed while the gate was under way. */
#define IDLE 0
#define OPENING 1
#define PREPARED 2
#define ACTING 3
#define AWAITING 4
#define CORRECTING 5
#define CLOSING 6
#define DONE 7
#define FAILED 8
#define INDETERMINATE 9
#define GONE 10
#define UNDERWAY(s) ((s) >= OPENING && (s) <= CLOSING)

/* A half of the gate's pair (2 §4.2). */
#define NONE 0
#define CONFIRMED 1
#define RESERVED 2
#define CONSUMED 3
#define ENDED 4

/* Replies, as a set of bits: what is on its way to the asker. UNSURE is a refusal by the endpoint and not by the handler:
 * EXPIRE (the answer is not remembered any more) or LIMIT (no room now; another copy may yet be taken). */
#define OK 1
#define NO 2
#define UNSURE 4

#define RIDS 4
#define R(e, rid, epoch) (((e) * RIDS + (rid)) * 2 + (epoch) - 1)    /* by answerer, request_id and asker's epoch */

#ifndef CRASHES
#define CRASHES 2                     /* restarts in all, one of each end at most */
#endif
#ifndef FAULTS
#define FAULTS 1                      /* losses of hardware, and false alarms of silence, each in all */
#endif

byte kind;

/* What an end knows. */
byte state[4];                        /* by X(end, gate), as all that follow */
byte half[4];
bit bits[4];                          /* it has measured */
bit peer_bits[4];                     /* it has what the peer has measured */
bit owes[4];                          /* it has the peer's outcome and owes the answer */
bit peer_done[4];
byte hardware[4];                     /* a batch under way: 1 the act, 2 the corrections */

/* The endpoints: sessions, asks and duties (1 §4). */
byte epoch[2];
byte met[2];                          /* the latest incarnation of the peer that it knows; 0 for none */
byte rids[2];
bit taken[8];                         /* by end * RIDS + request_id: requests of the peer's incarnation that it has taken */
bit open_asked[2];                    /* by gate: the source's ask awaits its answer */
bit outcome_asked[4];

/* The network. An epoch 0 says that it was not sent. */
byte open_from[2], open_to[2], open_rid[2];
byte outcome_from[4], outcome_to[4], outcome_rid[4];
byte release_from[4], release_to[4];
byte replies[16];

/* The world, and what the checks remember. */
bit over[2];                          /* the gate's deadline, which is not after the pair's expires_ns, has come */
byte given[4];                        /* how often the act was given to the hardware */
byte acted[4];                        /* how often the hardware has carried it out */
byte corrected[4];
bit struck[4];                        /* the end crashed or lost its hardware while it had its half */
byte crashes, hardware_losses, silences;
bit cut;                              /* the network delivers nothing any more */

/* Whether a message from `from` to `to` is of the session as it stands at end e (1 §4.3). */
#ifdef IGNORE_EPOCH
#define CURRENT(e, from, to) ((from) != 0)
#else
#define CURRENT(e, from, to) ((from) != 0 && (from) == met[e] && (to) == epoch[e])
#endif

/* Whether a request is new to end e: each is carried out once (1 §4.4). */
#ifdef REPEAT_REQUESTS
#define NO_DEDUP true
#define NEW(e, rid) true
#else
#define NO_DEDUP false
#define NEW(e, rid) (!taken[(e) * RIDS + (rid)])
#endif

/* An end deals with what is due before it deals with what has come. */
#ifdef LATE_TIMERS
#define ON_TIME(e, g) true
#else
#define ON_TIME(e, g) (!over[g] || !UNDERWAY(state[X(e, g)]))
#endif

#ifdef IGNORE_EPOCH
#define REPLIES(e, rid) (replies[R(1 - (e), rid, 1)] | replies[R(1 - (e), rid, 2)])
#else
#define REPLIES(e, rid) (replies[R(1 - (e), rid, epoch[e])])
#endif

inline answer(e, g, bit_) {           /* to the incarnation that asked, or to nobody (1 §4.4) */
    if
    :: owes[X(e, g)] && outcome_from[X(1 - e, g)] == met[e] ->
        replies[R(e, outcome_rid[X(1 - e, g)], outcome_from[X(1 - e, g)])] =
            replies[R(e, outcome_rid[X(1 - e, g)], outcome_from[X(1 - e, g)])] | bit_
    :: else
    fi;
}

inline act(e, g) {
    half[X(e, g)] = CONSUMED;
    given[X(e, g)]++;
    hardware[X(e, g)] = 1;
    state[X(e, g)] = ACTING;
    /* Single use. */
    assert(given[X(e, g)] == 1);
    /* No ghost pair: the other end has its half for this gate, or had it until something struck it; and the lease runs. */
    assert(half[X(1 - e, g)] == RESERVED || half[X(1 - e, g)] == CONSUMED || struck[X(1 - e, g)] || release_from[X(1 - e, g)]);
    assert(!over[g]);
    /* FAILED at the source promises for both qubits. */
    assert(e == SRC || state[X(SRC, g)] != FAILED);
}

inline settle(e, g) {                 /* 3 §2.4: the end of a gate at an end that did not crash */
    open_asked[g] = open_asked[g] && e == TGT;
    outcome_asked[X(e, g)] = 0;
    if
    :: state[X(e, g)] == DONE ->
        /* Exact correction. */
        assert(acted[X(e, g)] == 1 && acted[X(1 - e, g)] == 1);
        assert(corrected[X(e, g)] == 1 && corrected[X(1 - e, g)] == 1);
        assert(kind == STATE && e == SRC || peer_bits[X(e, g)])
    :: state[X(e, g)] == FAILED ->
        assert(given[X(e, g)] == 0);
        assert(e == TGT || given[X(TGT, g)] == 0)
    :: else
    fi;
    if
    :: half[X(e, g)] == RESERVED -> half[X(e, g)] = ENDED; release_from[X(e, g)] = epoch[e]; release_to[X(e, g)] = met[e]
    :: else
    fi;
}

inline lose(e, g) {
    if
    :: state[X(e, g)] == OPENING && kind == SYMMETRIC ->
#ifdef SYMMETRIC_FAILED
        state[X(e, g)] = FAILED
#else
        state[X(e, g)] = INDETERMINATE
#endif
    :: state[X(e, g)] == OPENING && kind != SYMMETRIC -> state[X(e, g)] = FAILED
    :: state[X(e, g)] == PREPARED -> state[X(e, g)] = FAILED
    :: else -> state[X(e, g)] = INDETERMINATE
    fi;
    answer(e, g, NO);
    settle(e, g);
}

inline finish(e, g) { state[X(e, g)] = DONE; settle(e, g); }

inline corrected_now(e, g) {
    corrected[X(e, g)]++;
    state[X(e, g)] = CLOSING;
    answer(e, g, OK);
#ifdef NO_ACK
    finish(e, g)
#else
    if :: peer_done[X(e, g)] -> finish(e, g) :: else fi
#endif
}

inline correct(e, g) {                /* the target of a sequential gate has nothing to correct once it has acted (3 §3.1) */
    state[X(e, g)] = CORRECTING;
    if
    :: kind == SEQUENTIAL && e == TGT -> corrected_now(e, g)
    :: else -> hardware[X(e, g)] = 2
    fi;
}

inline send_outcome(e, g) {
    outcome_from[X(e, g)] = epoch[e]; outcome_to[X(e, g)] = met[e]; outcome_rid[X(e, g)] = rids[e]; rids[e]++;
    outcome_asked[X(e, g)] = 1;
}

inline completed(e, g) {              /* the hardware's word on a batch */
    if
    :: hardware[X(e, g)] == 1 ->
        hardware[X(e, g)] = 0;
        acted[X(e, g)]++;
        bits[X(e, g)] = 1;
        if
        :: state[X(e, g)] != ACTING                     /* the gate was lost meanwhile */
        :: state[X(e, g)] == ACTING && kind == STATE && e == TGT ->
            corrected[X(e, g)]++; answer(e, g, OK); finish(e, g)
        :: state[X(e, g)] == ACTING && kind == STATE && e == SRC ->
            corrected[X(e, g)]++; state[X(e, g)] = CLOSING; send_outcome(e, g)
        :: state[X(e, g)] == ACTING && kind != STATE ->
            state[X(e, g)] = AWAITING; send_outcome(e, g);
            if :: owes[X(e, g)] -> correct(e, g) :: else fi
        fi
    :: else ->
        hardware[X(e, g)] = 0;
        if :: state[X(e, g)] == CORRECTING -> corrected_now(e, g) :: else -> corrected[X(e, g)]++ fi
    fi;
}

inline begin(g) {                     /* both ends hold the pair of the gate: that they do is pair.pml's */
    half[X(SRC, g)] = RESERVED; half[X(TGT, g)] = CONFIRMED;
    state[X(SRC, g)] = OPENING;
    open_from[g] = epoch[SRC]; open_to[g] = met[SRC]; open_rid[g] = rids[SRC]; rids[SRC]++;
    open_asked[g] = 1;
#ifdef ACT_EARLY
    act(SRC, g); state[X(SRC, g)] = OPENING
#endif
}

inline take_open(g) {                 /* gate.open at the target (3 §2.2) */
    taken[TGT * RIDS + open_rid[g]] = 1;
    if
    :: UNDERWAY(state[X(TGT, g)]) || over[g] || half[X(TGT, g)] != CONFIRMED ->
        replies[R(TGT, open_rid[g], open_from[g])] = replies[R(TGT, open_rid[g], open_from[g])] | NO
    :: else ->
        if
        :: replies[R(TGT, open_rid[g], open_from[g])] = replies[R(TGT, open_rid[g], open_from[g])] | NO   /* no such qubit */
        :: replies[R(TGT, open_rid[g], open_from[g])] = replies[R(TGT, open_rid[g], open_from[g])] | OK;
            half[X(TGT, g)] = RESERVED;
            state[X(TGT, g)] = PREPARED;
            if :: kind == SYMMETRIC -> act(TGT, g) :: else fi
        fi
    fi;
}

inline take_outcome(e, g) {           /* gate.outcome (3 §2.3) */
    taken[e * RIDS + outcome_rid[X(1 - e, g)]] = 1;
    if
    :: UNDERWAY(state[X(e, g)]) && (!owes[X(e, g)] || NO_DEDUP) &&
       (state[X(e, g)] == PREPARED || state[X(e, g)] == ACTING || state[X(e, g)] == AWAITING ||
        state[X(e, g)] == OPENING && kind == SYMMETRIC) ->
        owes[X(e, g)] = 1;
        peer_bits[X(e, g)] = bits[X(1 - e, g)];
#ifdef EARLY_ACK
        answer(e, g, OK);
#endif
        if
        :: state[X(e, g)] == OPENING || state[X(e, g)] == PREPARED -> open_asked[g] = open_asked[g] && e == TGT; act(e, g)
        :: state[X(e, g)] == ACTING
        :: state[X(e, g)] == AWAITING -> correct(e, g)
        fi
    :: else ->
        replies[R(e, outcome_rid[X(1 - e, g)], outcome_from[X(1 - e, g)])] =
            replies[R(e, outcome_rid[X(1 - e, g)], outcome_from[X(1 - e, g)])] | NO
    fi;
}

inline opened(g, set) {               /* the answer to gate.open at the source */
    if
    :: set & OK -> open_asked[g] = 0;
#ifdef ACT_EARLY
        state[X(SRC, g)] = ACTING
#else
        act(SRC, g)
#endif
    :: set & NO -> state[X(SRC, g)] = FAILED; settle(SRC, g)
    :: set & UNSURE ->                /* says as little as no answer */
#ifdef UNSURE_IS_REFUSAL
        state[X(SRC, g)] = FAILED; settle(SRC, g)
#else
        lose(SRC, g)
#endif
    fi;
}

inline outcome_answered(e, g, set) {
    if
    :: set & OK ->
        outcome_asked[X(e, g)] = 0;
        if
        :: state[X(e, g)] == CLOSING -> finish(e, g)
        :: else -> peer_done[X(e, g)] = 1
        fi
    :: set & (NO | UNSURE) -> lose(e, g)
    fi;
}

inline crash(e) {
    crashes++; epoch[e]++; met[e] = 0; rids[e] = 0;
    for (i : 0 .. RIDS - 1) { taken[e * RIDS + i] = 0 }
    for (i : 0 .. GATES - 1) {
        if :: half[X(e, i)] != NONE && half[X(e, i)] != ENDED -> struck[X(e, i)] = 1; half[X(e, i)] = ENDED :: else fi;
        if :: UNDERWAY(state[X(e, i)]) -> state[X(e, i)] = GONE :: else fi;
        hardware[X(e, i)] = 0; owes[X(e, i)] = 0; peer_done[X(e, i)] = 0; outcome_asked[X(e, i)] = 0;
        if :: e == SRC -> open_asked[i] = 0 :: else fi
    }
}

inline meet(e) {                      /* a hello or welcome of a later incarnation of the peer (1 §4.3) */
    met[e]++;
    if
    :: met[e] > 1 ->                  /* one that was known, or may have been, has restarted */
#ifndef IGNORE_EPOCH
        for (i : 0 .. RIDS - 1) { taken[e * RIDS + i] = 0 }
#endif
        for (i : 0 .. GATES - 1) {
            if :: half[X(e, i)] == CONFIRMED -> half[X(e, i)] = ENDED :: else fi;
            if :: UNDERWAY(state[X(e, i)]) -> lose(e, i) :: else fi
        }
    :: else
    fi;
}

inline lose_hardware(e) {             /* what was under way counts as failed, every qubit is gone */
    hardware_losses++;
    for (i : 0 .. GATES - 1) {
        hardware[X(e, i)] = 0;
        if :: half[X(e, i)] != NONE && half[X(e, i)] != ENDED -> struck[X(e, i)] = 1 :: else fi;
        if :: UNDERWAY(state[X(e, i)]) -> lose(e, i) :: else fi;
        if :: half[X(e, i)] == CONFIRMED ->
            half[X(e, i)] = ENDED; release_from[X(e, i)] = epoch[e]; release_to[X(e, i)] = met[e]
        :: else fi
    }
}

inline fall_silent(e) {               /* the peer was not heard: what was asked of it fails, and nothing else (1 §4.5) */
    silences++;
    for (i : 0 .. GATES - 1) {
        if
        :: e == SRC && open_asked[i] || outcome_asked[X(e, i)] ->
            if :: UNDERWAY(state[X(e, i)]) -> lose(e, i) :: else fi
        :: else
        fi
    }
}

proctype Actor(byte e, g) {
    byte i;
end:
    do
    /* The application asks for another gate, over another pair. */
#ifndef ONE_GATE
    :: atomic {
        g == 1 && e == SRC && state[X(SRC, 1)] == IDLE && !UNDERWAY(state[X(SRC, 0)]) && half[X(TGT, 1)] == NONE &&
        met[SRC] == epoch[TGT] && met[TGT] == epoch[SRC] -> begin(1)
    }
#endif

    /* Deliveries. */
    :: atomic { e == TGT && !cut && CURRENT(TGT, open_from[g], open_to[g]) && NEW(TGT, open_rid[g]) -> take_open(g) }
    :: atomic {
        !cut && CURRENT(e, outcome_from[X(1 - e, g)], outcome_to[X(1 - e, g)]) && NEW(e, outcome_rid[X(1 - e, g)]) &&
        ON_TIME(e, g) -> take_outcome(e, g)
    }
    :: atomic {
        e == SRC && !cut && open_asked[g] && REPLIES(SRC, open_rid[g]) && ON_TIME(SRC, g) ->
        opened(g, REPLIES(SRC, open_rid[g]))
    }
    :: atomic {
        !cut && outcome_asked[X(e, g)] && REPLIES(e, outcome_rid[X(e, g)]) && ON_TIME(e, g) ->
        outcome_answered(e, g, REPLIES(e, outcome_rid[X(e, g)]))
    }
    :: atomic {
        !cut && CURRENT(e, release_from[X(1 - e, g)], release_to[X(1 - e, g)]) &&
        (half[X(e, g)] == CONFIRMED || half[X(e, g)] == RESERVED) ->
        half[X(e, g)] = ENDED;
        if :: UNDERWAY(state[X(e, g)]) -> lose(e, g) :: else fi
    }

    /* The target's endpoint refuses: the answer is forgotten (EXPIRE), or there is no room yet (LIMIT). */
    :: atomic {
        e == TGT && !cut && open_asked[g] && CURRENT(TGT, open_from[g], open_to[g]) &&
        !(replies[R(TGT, open_rid[g], open_from[g])] & UNSURE) ->
        replies[R(TGT, open_rid[g], open_from[g])] = replies[R(TGT, open_rid[g], open_from[g])] | UNSURE
    }

    /* Hardware: it carries a batch out, or is lost with everything on it. */
    :: atomic { hardware[X(e, g)] -> completed(e, g) }
    :: atomic { g == 0 && hardware_losses < FAULTS -> lose_hardware(e) }

    /* Time. */
    :: atomic { e == SRC && open_from[g] && !over[g] -> over[g] = 1 }
    :: atomic { over[g] && UNDERWAY(state[X(e, g)]) -> lose(e, g) }
    :: atomic { over[g] && half[X(e, g)] == CONFIRMED -> half[X(e, g)] = ENDED }

    /* Losses. */
    :: atomic { g == 0 && crashes < CRASHES && epoch[e] == 1 -> crash(e) }
    :: atomic { g == 0 && !cut && met[e] < epoch[1 - e] -> meet(e) }
    :: atomic { g == 0 && silences < FAULTS -> fall_silent(e) }
#ifndef NO_CUT
    :: atomic { g == 0 && e == SRC && !cut -> cut = 1 }
#endif
    od
}

#define OVER_AT(e, g) (!UNDERWAY(state[X(e, g)]) && hardware[X(e, g)] == 0 && \
                       half[X(e, g)] != CONFIRMED && half[X(e, g)] != RESERVED)

init {
    atomic {
        epoch[SRC] = 1; epoch[TGT] = 1; met[SRC] = 1; met[TGT] = 1;
#ifdef KIND
        kind = KIND;
#else
        if :: kind = SEQUENTIAL :: kind = SYMMETRIC :: kind = STATE fi;
#endif
        begin(0);
        run Actor(SRC, 0); run Actor(SRC, 1); run Actor(TGT, 0); run Actor(TGT, 1)
    }
    /* Termination: when nothing can happen any more, every gate has ended at both ends and no half is kept. */
    timeout -> assert(OVER_AT(SRC, 0) && OVER_AT(SRC, 1) && OVER_AT(TGT, 0) && OVER_AT(TGT, 1))
}
