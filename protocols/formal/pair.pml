/* The agreement of both ends of a link on a pair, chapter 2 sections 3 and 4: the station's report to both, pair.confirm and
 * pair.confirmed, use, release, expiry, and restart with a new epoch. What is modelled and what is not: README.md. Run by
 * check.py. The network is a set, as in gate.pml: what was sent may arrive at any later time, any number of times, or never.
 */

#define PRI 0
#define SEC 1
#define PAIRS 2                       /* windows, each of which may bring one pair; ids are never used again */
#define X(e, w) ((e) * PAIRS + (w))

/* An end's window (2 §3.2), as far as the agreement depends on it. */
#define SHUT 0
#define ARMED 1
#define OVER 2

/* A half (2 §4.2). */
#define NONE 0
#define HERALDED 1
#define CONFIRMED 2
#define RESERVED 3
#define CONSUMED 4
#define RELEASED 5
#define EXPIRED 6
#define ALIVE(h) ((h) >= HERALDED && (h) <= RESERVED)

/* Replies, as a set of bits. UNSURE: the endpoint refuses with LIMIT or EXPIRE, which is not the handler's word. */
#define OK 1
#define NO 2
#define UNSURE 4

#ifndef CRASHES
#define CRASHES 2                     /* restarts in all, one of each end at most */
#endif
#ifndef SILENCES
#define SILENCES 1                    /* false alarms of silence in all */
#endif
#ifndef LIES
#define LIES 1                        /* reports that name another Bell state or attempt than the other end's, in all */
#endif

/* What an end knows, by X(end, window). */
byte window[4];
byte half[4];
byte frame[4];                        /* the Bell state that it was told; 0 for nothing */
bit counted[4];                       /* its hardware has stopped */
bit slipped[4];                       /* ... at another attempt than the other end's */
bit claimed[2];                       /* at the secondary: a pair.confirm waits for the window to end */

/* The endpoints (1 §4). Requests count from 0 in every epoch; the confirmation is the only one whose number matters here. */
byte epoch[2];
byte met[2];
byte rids;                            /* of the primary */
bit taken[2];                         /* by request_id, at the secondary */
bit confirm_asked[2];
bit gate_asked[4];

/* The network. An epoch 0 says that it was not sent. */
byte open_from[2], open_to[2];
byte confirm_from[2], confirm_to[2], confirm_rid[2];
byte confirm_replies[4];              /* by request_id * 2 + asker's epoch - 1 */
byte gate_from[4], gate_to[4];
byte gate_replies[4];
byte release_from[4], release_to[4];
bit release_asked[4];

/* The world. */
bit heralded[2];                      /* the station saw a herald, and both ends took part in that attempt */
bit over[2];                          /* the primary's expires_ns has come */
bit joined[4];                        /* the end's hardware took part */
bit had[4];                           /* it has held a half in the present incarnation or a former one */
byte used[4];
bit struck[4];                        /* it crashed while it had its half */
bit cut;                              /* the network delivers nothing any more */
byte crashes, silences, lies;

#ifdef IGNORE_EPOCH
#define CURRENT(e, from, to) (!cut && (from) != 0)
#define CONFIRM_REPLIES(w) (confirm_replies[confirm_rid[w] * 2] | confirm_replies[confirm_rid[w] * 2 + 1])
#else
#define CURRENT(e, from, to) (!cut && (from) != 0 && (from) == met[e] && (to) == epoch[e])
#define CONFIRM_REPLIES(w) (confirm_replies[confirm_rid[w] * 2 + epoch[PRI] - 1])
#endif

#ifdef REPEAT_REQUESTS
#define NEW(rid) true
#else
#define NEW(rid) (!taken[rid])
#endif

/* An end deals with what is due before it deals with what has come; both know expires_ns once they have confirmed. */
#define ON_TIME(e, w) (!over[w] || !ALIVE(half[X(e, w)]) || e == SEC && half[X(e, w)] == HERALDED)

inline confirm(e, w) {
    half[X(e, w)] = CONFIRMED;
    /* No ghost pair: the other end has its half of the very same pair, or had it until it gave it up. */
    assert(heralded[w] && had[X(1 - e, w)]);
    assert(!slipped[X(e, w)]);
    /* One frame. */
    assert(frame[X(e, w)] == frame[X(1 - e, w)]);
    /* A lease: nothing is confirmed that is over. */
    assert(!over[w]);
}

inline consume(e, w) {
    half[X(e, w)] = CONSUMED;
    used[X(e, w)]++;
    /* Single use, and within the lease. */
    assert(used[X(e, w)] == 1);
    assert(!over[w]);
    /* No ghost pair: the other end still has its half, or it has used it, or was struck, or its word that it gave it up is on
     * its way and will not cease to be said while the lease runs. */
    assert(ALIVE(half[X(1 - e, w)]) || half[X(1 - e, w)] == CONSUMED || struck[X(1 - e, w)] || release_asked[X(1 - e, w)]);
}

inline give_up(e, w) {                /* release: this end gives an unused half up, and says so (2 §4.3) */
    half[X(e, w)] = RELEASED; gate_asked[X(e, w)] = 0;
    release_from[X(e, w)] = epoch[e]; release_to[X(e, w)] = met[e]; release_asked[X(e, w)] = 1;
}

inline forsake(e, w) { half[X(e, w)] = RELEASED; gate_asked[X(e, w)] = 0 }

inline reply_confirm(w, bit_) {       /* to the incarnation that asked, or to nobody */
    if
    :: confirm_from[w] == met[SEC] ->
        confirm_replies[confirm_rid[w] * 2 + confirm_from[w] - 1] = confirm_replies[confirm_rid[w] * 2 + confirm_from[w] - 1] | bit_
    :: else
    fi;
}

inline settle(w) {                    /* the secondary compares the primary's word with its own half */
    claimed[w] = 0;
    if
#ifndef LATE_CLAIM
    :: over[w] -> reply_confirm(w, NO); half[X(SEC, w)] = RELEASED
#endif
#ifndef NO_COMPARE
    :: frame[X(SEC, w)] != frame[X(PRI, w)] -> reply_confirm(w, NO); half[X(SEC, w)] = RELEASED
#endif
    :: else -> reply_confirm(w, OK); confirm(SEC, w)
    fi;
}

inline herald(e, w) {                 /* both the hardware and the station have spoken */
    window[X(e, w)] = OVER;
    if
#ifndef NO_COUNT
    :: slipped[X(e, w)] -> if :: e == SEC && claimed[w] -> claimed[w] = 0; reply_confirm(w, NO) :: else fi
#endif
    :: else ->
        half[X(e, w)] = HERALDED; had[X(e, w)] = 1;
        if
        :: e == PRI ->
            confirm_from[w] = epoch[PRI]; confirm_to[w] = met[PRI]; confirm_rid[w] = rids; rids++;
            confirm_asked[w] = 1;
#ifdef NO_ACK
            confirm(PRI, w)
#endif
        :: e == SEC && claimed[w] -> settle(w)
        :: else
        fi
    fi;
}

inline shut(e, w) {                   /* a window ends without a pair: abort, timeout, failure */
    window[X(e, w)] = OVER;
    if :: e == SEC && claimed[w] -> claimed[w] = 0; reply_confirm(w, NO) :: else fi;
}

inline take_confirm(w) {
    taken[confirm_rid[w]] = 1;
    if
    :: half[X(SEC, w)] == HERALDED -> settle(w)
    :: half[X(SEC, w)] == NONE && window[X(SEC, w)] == ARMED -> claimed[w] = 1
    :: else -> reply_confirm(w, NO)
    fi;
}

inline confirm_answered(w, set) {
    if
    :: set & OK -> confirm_asked[w] = 0; if :: half[X(PRI, w)] == HERALDED -> confirm(PRI, w) :: else fi
    :: set & NO -> confirm_asked[w] = 0; if :: half[X(PRI, w)] == HERALDED -> half[X(PRI, w)] = RELEASED :: else fi
    :: set & UNSURE ->                /* says as little as no answer: the half is kept until it expires */
        confirm_asked[w] = 0;
#ifdef UNSURE_IS_REFUSAL
        if :: half[X(PRI, w)] == HERALDED -> half[X(PRI, w)] = RELEASED :: else fi
#endif
    fi;
}

inline take_gate(e, w) {              /* the other end's gate.open, of a symmetric gate: both ends use the pair (3 §2.2) */
    if :: e == PRI && half[X(PRI, w)] == HERALDED -> confirm(PRI, w) :: else fi;
    if
    :: half[X(e, w)] == CONFIRMED && !over[w] -> consume(e, w); gate_replies[X(1 - e, w)] = gate_replies[X(1 - e, w)] | OK
    :: else -> gate_replies[X(1 - e, w)] = gate_replies[X(1 - e, w)] | NO
    fi;
}

inline crash(e) {
    crashes++; epoch[e]++; met[e] = 0;
    if :: e == PRI -> rids = 0 :: else -> taken[0] = 0; taken[1] = 0 fi;
    for (i : 0 .. PAIRS - 1) {
        if :: had[X(e, i)] -> struck[X(e, i)] = 1 :: else fi;
        if :: ALIVE(half[X(e, i)]) -> half[X(e, i)] = RELEASED :: else fi;
        if :: window[X(e, i)] == ARMED -> window[X(e, i)] = OVER :: else fi;
        if :: e == PRI -> confirm_asked[i] = 0 :: else -> claimed[i] = 0 fi;
        gate_asked[X(e, i)] = 0; release_asked[X(e, i)] = 0
    }
}

inline meet(e) {                      /* a later incarnation of the peer: what was shared with the former one is gone */
    met[e]++;
    if
    :: met[e] > 1 ->
#ifndef IGNORE_EPOCH
        if :: e == SEC -> taken[0] = 0; taken[1] = 0 :: else fi;
#endif
        for (i : 0 .. PAIRS - 1) {
            /* What the former one asked is forgotten before anybody hears of its end. */
            if :: e == SEC -> claimed[i] = 0 :: e == PRI -> confirm_asked[i] = 0 fi;
            release_asked[X(e, i)] = 0;
            if :: ALIVE(half[X(e, i)]) -> forsake(e, i) :: else fi;
            if :: window[X(e, i)] == ARMED -> window[X(e, i)] = OVER :: else fi
        }
    :: else
    fi;
}

inline fall_silent(e) {               /* what was asked fails; halves are kept; windows are aborted */
    silences++;
    for (i : 0 .. PAIRS - 1) {
        if :: window[X(e, i)] == ARMED -> shut(e, i) :: else fi;
        if :: e == PRI && confirm_asked[i] -> confirm_asked[i] = 0;
#ifdef EARLY_RELEASE
            if :: half[X(PRI, i)] == HERALDED -> half[X(PRI, i)] = RELEASED :: else fi
#endif
           :: else
        fi;
        if :: half[X(e, i)] == RESERVED && gate_asked[X(e, i)] -> give_up(e, i) :: else fi;
#ifdef SILENCED_RELEASE
        release_asked[X(e, i)] = 0
#endif
    }
}

proctype Actor(byte e, w) {
    byte i;
end:
    do
    /* Windows. The primary opens one when the one before is over at it. */
    :: atomic {
        e == PRI && window[X(PRI, w)] == SHUT && !open_from[w] && met[PRI] == epoch[SEC] &&
        (w == 0 || window[X(PRI, 0)] == OVER || epoch[PRI] > 1) ->
        window[X(PRI, w)] = ARMED; joined[X(PRI, w)] = 1; open_from[w] = epoch[PRI]; open_to[w] = met[PRI]
    }
    :: atomic {
        e == SEC && CURRENT(SEC, open_from[w], open_to[w]) && window[X(SEC, w)] == SHUT ->
        window[X(SEC, w)] = ARMED; joined[X(SEC, w)] = 1
    }
    :: atomic {                       /* attempts are made while both take part */
        e == PRI && !heralded[w] && window[X(PRI, w)] == ARMED && window[X(SEC, w)] == ARMED -> heralded[w] = 1
    }
    :: atomic {                       /* the hardware's count */
        heralded[w] && joined[X(e, w)] && window[X(e, w)] == ARMED && !counted[X(e, w)] ->
        counted[X(e, w)] = 1;
        if :: lies < LIES -> lies++; slipped[X(e, w)] = 1 :: true fi;
        if :: frame[X(e, w)] -> herald(e, w) :: else fi
    }
    :: atomic {                       /* the station's report, which it repeats until it is taken */
        !cut && heralded[w] && window[X(e, w)] == ARMED && !frame[X(e, w)] ->
        if :: lies < LIES -> lies++; frame[X(e, w)] = 2 :: frame[X(e, w)] = 1 fi;
        if :: counted[X(e, w)] -> herald(e, w) :: else fi
    }
    :: atomic { window[X(e, w)] == ARMED -> shut(e, w) }

    /* Confirmation. */
    :: atomic { e == SEC && CURRENT(SEC, confirm_from[w], confirm_to[w]) && NEW(confirm_rid[w]) && ON_TIME(SEC, w) -> take_confirm(w) }
    :: atomic { e == PRI && !cut && confirm_asked[w] && CONFIRM_REPLIES(w) && ON_TIME(PRI, w) -> confirm_answered(w, CONFIRM_REPLIES(w)) }
    :: atomic {                       /* the secondary's endpoint refuses: no room (LIMIT), or answered too long ago (EXPIRE) */
        e == SEC && confirm_asked[w] && CURRENT(SEC, confirm_from[w], confirm_to[w]) &&
        !(confirm_replies[confirm_rid[w] * 2 + confirm_from[w] - 1] & UNSURE) ->
        confirm_replies[confirm_rid[w] * 2 + confirm_from[w] - 1] = confirm_replies[confirm_rid[w] * 2 + confirm_from[w] - 1] | UNSURE
    }

    /* Use by a program at one end, or by a gate at both. */
    :: atomic { half[X(e, w)] == CONFIRMED && !over[w] -> consume(e, w) }
#ifndef NO_GATES
    :: atomic {
        half[X(e, w)] == CONFIRMED && !over[w] && !gate_from[X(e, w)] ->
        half[X(e, w)] = RESERVED;
        gate_from[X(e, w)] = epoch[e]; gate_to[X(e, w)] = met[e]; gate_asked[X(e, w)] = 1
    }
    :: atomic {
        CURRENT(e, gate_from[X(1 - e, w)], gate_to[X(1 - e, w)]) && !gate_replies[X(1 - e, w)] && ON_TIME(e, w) -> take_gate(e, w)
    }
    :: atomic {
        !cut && gate_asked[X(e, w)] && gate_replies[X(e, w)] && ON_TIME(e, w) ->
        gate_asked[X(e, w)] = 0;
        if
        :: gate_replies[X(e, w)] & OK -> consume(e, w);
            assert(half[X(1 - e, w)] == CONSUMED)
        :: else -> give_up(e, w)
        fi
    }
#endif

    /* The end of a half. */
    :: atomic { ALIVE(half[X(e, w)]) && !release_from[X(e, w)] -> give_up(e, w) }
    :: atomic { CURRENT(e, release_from[X(1 - e, w)], release_to[X(1 - e, w)]) && ALIVE(half[X(e, w)]) -> forsake(e, w) }
    :: atomic { e == PRI && had[X(PRI, w)] && !over[w] -> over[w] = 1 }
    :: atomic {
        over[w] && ALIVE(half[X(e, w)]) && (e == PRI || half[X(e, w)] != HERALDED) ->
        half[X(e, w)] = EXPIRED; gate_asked[X(e, w)] = 0; if :: e == PRI -> confirm_asked[w] = 0 :: else fi
    }
    :: atomic { e == SEC && half[X(SEC, w)] == HERALDED -> half[X(SEC, w)] = EXPIRED }   /* by its own lease, whenever that ends */

    /* Losses. */
    :: atomic { w == 0 && crashes < CRASHES && epoch[e] == 1 -> crash(e) }
    :: atomic { w == 0 && !cut && met[e] < epoch[1 - e] -> meet(e) }
    :: atomic { w == 0 && silences < SILENCES -> fall_silent(e) }
#ifndef NO_CUT
    :: atomic { w == 0 && e == PRI && !cut -> cut = 1 }
#endif
    od
}

#define OVER_AT(e, w) (!ALIVE(half[X(e, w)]) && window[X(e, w)] != ARMED && !gate_asked[X(e, w)])

init {
    atomic {
        epoch[PRI] = 1; epoch[SEC] = 1; met[PRI] = 1; met[SEC] = 1;
        run Actor(PRI, 0); run Actor(SEC, 0);
#ifndef ONE_PAIR
        run Actor(PRI, 1); run Actor(SEC, 1)
#endif
    }
    /* Termination: when nothing can happen any more, every window, half and ask has ended. */
    timeout -> assert(OVER_AT(PRI, 0) && OVER_AT(SEC, 0) && OVER_AT(PRI, 1) && OVER_AT(SEC, 1) && !claimed[0] && !claimed[1])
}
