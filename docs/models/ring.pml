/* The ring's protocol: submit, sleep and wake-up, answer, the death of a worker, its replacement.
 *
 * Facts: a store waits in its processor's store buffer before others see it. A plain or relaxed store
 * may overtake others there (aarch64); a release store leaves after all that were stored before it; a
 * fence waits until the buffer is empty. Loads find the newest store of their own processor first.
 * Decision: each process has a small buffer, and `drain` empties them in any order that is allowed.
 * Loads are made in program order: what an acquire load forbids is not modelled.
 *
 * There are no timeouts here: whoever sleeps and is not woken never goes on, and Spin reports an
 * invalid end state. The real protocol would go on after a second, and must not need to.
 *
 * README.md tells which line of code is which, and what each mutant (-DM_...) breaks. */

#ifndef BATCHES
#define BATCHES 3
#endif
#ifndef DIRECT
#define DIRECT 0 /* 1: a VMM submits, and is told that its worker is gone; 0: a coordinator replaces it */
#endif
#ifndef DEATH
#define DEATH 1 /* 0: no worker is killed, so that nothing but a wake-up ends a sleep */
#endif
#ifndef ABANDON
#define ABANDON 0 /* 1: the submitter abandons what is in progress once, at any moment, and goes on */
#endif
#define SLOTS 2
#define DEPTH 3 /* stores in a buffer */

#ifndef M_NO_SUBMIT_FENCE
#define M_NO_SUBMIT_FENCE 0
#endif
#ifndef M_NO_ASLEEP_FENCE
#define M_NO_ASLEEP_FENCE 0
#endif
#ifndef M_NO_ANSWER_FENCE
#define M_NO_ANSWER_FENCE 0
#endif
#ifndef M_NO_WAKE_AT_FENCE
#define M_NO_WAKE_AT_FENCE 0
#endif
#ifndef M_RELAXED_REQUEST
#define M_RELAXED_REQUEST 0
#endif
#ifndef M_RELAXED_ANSWER
#define M_RELAXED_ANSWER 0
#endif
#ifndef M_ANSWER_BEFORE_BITS
#define M_ANSWER_BEFORE_BITS 0
#endif
#ifndef M_WORKER_SLEEPS_UNCHECKED
#define M_WORKER_SLEEPS_UNCHECKED 0
#endif
#ifndef M_SUBMITTER_SLEEPS_UNCHECKED
#define M_SUBMITTER_SLEEPS_UNCHECKED 0
#endif
#ifndef M_ATTENTION_UNCHECKED
#define M_ATTENTION_UNCHECKED 0
#endif
#ifndef M_WAKES_PAST_ONLY
#define M_WAKES_PAST_ONLY 0
#endif
#ifndef M_ANY_ANSWER
#define M_ANY_ANSWER 0
#endif
#ifndef M_DONE_SEEN_LATE
#define M_DONE_SEEN_LATE 0
#endif
#ifndef M_SUBMIT_SEEN_LATE
#define M_SUBMIT_SEEN_LATE 0
#endif
#ifndef M_GONE_AFTER_DONE
#define M_GONE_AFTER_DONE 0
#endif
#ifndef M_NO_WAKE_WHEN_GONE
#define M_NO_WAKE_WHEN_GONE 0
#endif
#ifndef M_SAME_RING
#define M_SAME_RING 0
#endif
#ifndef M_NO_SUBMIT_INCREMENT
#define M_NO_SUBMIT_INCREMENT 0
#endif
#ifndef M_NO_DONE_INCREMENT
#define M_NO_DONE_INCREMENT 0
#endif
#ifndef M_NO_GONE_INCREMENT
#define M_NO_GONE_INCREMENT 0
#endif
#ifndef M_ATTENTION_AFTER_SUBMIT
#define M_ATTENTION_AFTER_SUBMIT 0
#endif
#ifndef M_NO_ATTENTION_INCREMENT
#define M_NO_ATTENTION_INCREMENT 0
#endif
#ifndef M_GONE_READ_LAST
#define M_GONE_READ_LAST 0
#endif
#ifndef M_ABANDONED_TAKEN
#define M_ABANDONED_TAKEN 0
#endif
#ifndef M_ABANDONED_SLOT_FREE
#define M_ABANDONED_SLOT_FREE 0
#endif

/* Processes with a store buffer. */
#define SUBMITTER 0
#define WORKER 1 /* the first one; the second has the next number */
#define SUPERVISOR 3
#define PROCESSES 4

/* The shared words of a ring; the second ring's follow. */
#define OFFSETS(s) (s)
#define REQUEST(s) (SLOTS + (s))
#define BITS(s) (2 * SLOTS + (s))
#define ANSWER(s) (3 * SLOTS + (s))
#define WAKE_AT (4 * SLOTS)
#define ASLEEP (4 * SLOTS + 1)
#define SUBMIT (4 * SLOTS + 2)
#define DONE (4 * SLOTS + 3)
#define GONE (4 * SLOTS + 4)
#define ATTENTION (4 * SLOTS + 5)
#define WORDS (4 * SLOTS + 6)
#define NOT_ASLEEP 255 /* in WAKE_AT */

byte memory[2 * WORDS];
byte at[PROCESSES * DEPTH], value[PROCESSES * DEPTH];
bit released[PROCESSES * DEPTH];
byte stored[PROCESSES];
bit sleeps[PROCESSES];
byte sleeps_on[PROCESSES];
bit dead;         /* the first worker was killed */
bit submitter_ended;
byte base;        /* batches that were collected from the first ring */
byte abandoned;   /* the newest batch that the submitter abandoned */
byte answered;    /* batches whose answers others could see when gone was stored */

inline load(me, word, into)
{
    d_step {
        into = memory[word];
        i = 0;
        do
        :: i < stored[me] ->
            if
            :: at[me * DEPTH + i] == word -> into = value[me * DEPTH + i]
            :: else
            fi;
            i++
        :: else -> break
        od;
        i = 0
    }
}

inline store(me, word, what, release)
{
    atomic {
        stored[me] < DEPTH ->
        at[me * DEPTH + stored[me]] = word;
        value[me * DEPTH + stored[me]] = what;
        released[me * DEPTH + stored[me]] = release;
        stored[me]++
    }
}

inline fence(me)
{
    stored[me] == 0
}

/* fetch_add with release */
inline add(me, word)
{
    atomic { stored[me] == 0 -> memory[word] = memory[word] + 1 }
}

inline futex_wait(me, word, seen)
{
    atomic {
        stored[me] == 0 -> /* the kernel's own barrier */
        if
        :: memory[word] == seen -> sleeps[me] = 1; sleeps_on[me] = word
        :: else
        fi
    }
}

inline futex_wake(me, word)
{
    atomic {
        stored[me] == 0 ->
        i = 0;
        do
        :: i < PROCESSES ->
            if
            :: sleeps[i] && sleeps_on[i] == word -> sleeps[i] = 0; sleeps_on[i] = 0
            :: else
            fi;
            i++
        :: else -> break
        od;
        i = 0
    }
}

/* One store of any buffer becomes visible. */
inline drain_one(me, n)
{
    /* Stores to one word keep their order, and a release store comes after all before it. */
    d_step {
        stored[me] > n && (!released[me * DEPTH + n] || n == 0) &&
        (n < 1 || at[me * DEPTH] != at[me * DEPTH + n]) &&
        (n < 2 || at[me * DEPTH + 1] != at[me * DEPTH + n]) ->
        memory[at[me * DEPTH + n]] = value[me * DEPTH + n];
        i = n;
        do
        :: i + 1 < stored[me] ->
            at[me * DEPTH + i] = at[me * DEPTH + i + 1];
            value[me * DEPTH + i] = value[me * DEPTH + i + 1];
            released[me * DEPTH + i] = released[me * DEPTH + i + 1];
            i++
        :: else -> break
        od;
        stored[me]--;
        at[me * DEPTH + stored[me]] = 0;
        value[me * DEPTH + stored[me]] = 0;
        released[me * DEPTH + stored[me]] = 0;
        i = 0
    }
}

proctype drain(byte me)
{
    byte i;
end:
    do
    :: drain_one(me, 0)
    :: drain_one(me, 1)
    :: drain_one(me, 2)
    od
}

/* pgck_ring_wake_worker */
inline wake_worker(ring)
{
    if
    :: !M_NO_SUBMIT_FENCE -> fence(SUBMITTER)
    :: M_NO_SUBMIT_FENCE
    fi;
    load(SUBMITTER, ring + SUBMIT, seen);
    load(SUBMITTER, ring + ASLEEP, got);
    if
    :: got == 1 + seen ->
        if
        :: !M_NO_SUBMIT_INCREMENT -> add(SUBMITTER, ring + SUBMIT)
        :: M_NO_SUBMIT_INCREMENT
        fi;
        futex_wake(SUBMITTER, ring + SUBMIT)
    :: else
    fi
}

/* pc_feed.c's pump with pagecheck_ring.h; of a VMM pagecheck_channel.h. */
proctype submitter()
{
    byte ring, submitted, collected, discard, got, seen, target, i;
    bit over, gone;

    do
    :: /* pgck_wait_slice reads gone first: what was answered before that counts */
        if
        :: DIRECT && !M_GONE_READ_LAST -> load(SUBMITTER, ring + GONE, gone)
        :: else
        fi;
        /* collect */
        do
        :: collected < submitted ->
            load(SUBMITTER, ring + ANSWER((collected + 1) % SLOTS), got);
            if
            :: got > collected || (M_ANY_ANSWER && got > 0) ->
                assert(M_ANY_ANSWER || got == collected + 1);
                if
                :: collected < discard
                :: else ->
                    load(SUBMITTER, ring + BITS((collected + 1) % SLOTS), got);
                    assert(got == base + collected + 1); /* the answer of this batch, and whole */
                    assert(collected >= abandoned) /* of the job that waits for it */
                fi;
                collected++
            :: else -> break
            fi
        :: else -> break
        od;
        if
        :: base + collected == BATCHES || discard == BATCHES -> break
        :: ABANDON && !abandoned && collected < submitted -> /* pc_feed_abandon */
            d_step {
                abandoned = submitted;
                discard = (M_ABANDONED_TAKEN -> 0 : submitted)
            }
        :: else
        fi;
        if
        :: base + submitted < BATCHES &&
           submitted - (M_ABANDONED_SLOT_FREE && discard > collected -> discard : collected) < SLOTS ->
            /* pgck_ring_submit */
            submitted++;
            store(SUBMITTER, ring + OFFSETS(submitted % SLOTS), base + submitted, 0);
            store(SUBMITTER, ring + REQUEST(submitted % SLOTS), submitted, !M_RELAXED_REQUEST);
            wake_worker(ring)
        :: else ->
            if
            :: DIRECT && M_GONE_READ_LAST -> load(SUBMITTER, ring + GONE, gone)
            :: else
            fi;
            if
            :: gone ->
                assert(collected >= answered); /* nothing that was answered is lost */
                over = 1;
                break
            :: !gone && !DIRECT && dead && !over -> /* replaced, on a ring of its own */
                over = 1;
                /* What it answered before it died counts; see above. */
                do
                :: collected < submitted ->
                    load(SUBMITTER, ring + ANSWER((collected + 1) % SLOTS), got);
                    if
                    :: got == collected + 1 ->
                        load(SUBMITTER, ring + BITS((collected + 1) % SLOTS), got);
                        assert(got == base + collected + 1);
                        collected++
                    :: else -> break
                    fi
                :: else -> break
                od;
                fence(SUBMITTER);
                d_step {
                    base = collected;
                    collected = 0;
                    submitted = 0;
                    got = 0;
                    seen = 0;
                    target = 0;
                    ring = (M_SAME_RING -> 0 : WORDS);
                    i = 0;
                    do
                    :: i < WORDS -> memory[ring + i] = 0; i++
                    :: else -> break
                    od;
                    i = 0;
                    memory[ring + WAKE_AT] = NOT_ASLEEP
                }
                if
                :: base < BATCHES -> run worker(WORKER + 1, ring)
                :: else
                fi
            :: else -> /* pgck_ring_sleep */
                if
                :: target = submitted
                :: submitted - collected > 1 -> target = collected + 1
                fi;
                if
                :: !M_DONE_SEEN_LATE -> load(SUBMITTER, ring + DONE, seen)
                :: M_DONE_SEEN_LATE
                fi;
                store(SUBMITTER, ring + WAKE_AT, target, 0);
                if
                :: !M_NO_WAKE_AT_FENCE -> fence(SUBMITTER)
                :: M_NO_WAKE_AT_FENCE
                fi;
                load(SUBMITTER, ring + ANSWER(target % SLOTS), got);
                if
                :: M_SUBMITTER_SLEEPS_UNCHECKED -> got = 0
                :: !M_SUBMITTER_SLEEPS_UNCHECKED
                fi;
                if
                :: got >= target
                :: else ->
                    load(SUBMITTER, ring + GONE, got);
                    if
                    :: got && !M_SUBMITTER_SLEEPS_UNCHECKED
                    :: else ->
                        if
                        :: M_DONE_SEEN_LATE -> load(SUBMITTER, ring + DONE, seen)
                        :: !M_DONE_SEEN_LATE
                        fi;
                        futex_wait(SUBMITTER, ring + DONE, seen);
                        if
                        :: !sleeps[SUBMITTER]
                        :: !DIRECT && dead && ring == 0 && !over -> /* it checks at the end of every slice */
                            d_step { sleeps[SUBMITTER] = 0; sleeps_on[SUBMITTER] = 0 }
                        fi
                    fi
                fi;
                store(SUBMITTER, ring + WAKE_AT, NOT_ASLEEP, 0);
                d_step { got = 0; seen = 0; target = 0 }
            fi
        fi
    od;
    /* pc_ring_raise_attention: the worker is told to look at its socket, and ends. */
    if
    :: M_ATTENTION_AFTER_SUBMIT ->
        add(SUBMITTER, ring + SUBMIT);
        add(SUBMITTER, ring + ATTENTION)
    :: !M_ATTENTION_AFTER_SUBMIT ->
        add(SUBMITTER, ring + ATTENTION);
        if
        :: !M_NO_ATTENTION_INCREMENT -> add(SUBMITTER, ring + SUBMIT)
        :: M_NO_ATTENTION_INCREMENT
        fi
    fi;
    futex_wake(SUBMITTER, ring + SUBMIT);
    submitter_ended = 1
}

/* pc_worker.c */
proctype worker(byte me; byte ring)
{
    byte next = 1, got, seen, woken_for, i;

    {
        do
        ::
            load(me, ring + ATTENTION, got);
            if
            :: got -> break
            :: else
            fi;
            load(me, ring + REQUEST(next % SLOTS), got);
            if
            :: got == next -> /* begin_next, answer_oldest */
                load(me, ring + OFFSETS(next % SLOTS), got);
                assert(got == next + (me == WORKER -> 0 : base)); /* the whole request */
                if
                :: M_ANSWER_BEFORE_BITS ->
                    store(me, ring + ANSWER(next % SLOTS), next, 1);
                    store(me, ring + BITS(next % SLOTS), got, 0)
                :: !M_ANSWER_BEFORE_BITS ->
                    store(me, ring + BITS(next % SLOTS), got, 0);
                    store(me, ring + ANSWER(next % SLOTS), next, !M_RELAXED_ANSWER)
                fi;
                if
                :: !M_NO_ANSWER_FENCE -> fence(me)
                :: M_NO_ANSWER_FENCE
                fi;
                load(me, ring + WAKE_AT, got);
                if
                :: got != woken_for && next >= got + M_WAKES_PAST_ONLY ->
                    woken_for = got;
                    if
                    :: !M_NO_DONE_INCREMENT -> add(me, ring + DONE)
                    :: M_NO_DONE_INCREMENT
                    fi;
                    futex_wake(me, ring + DONE)
                :: else
                fi;
                next++
            :: else -> /* sleep_until */
                if
                :: !M_SUBMIT_SEEN_LATE -> load(me, ring + SUBMIT, seen)
                :: M_SUBMIT_SEEN_LATE
                fi;
                store(me, ring + ASLEEP, 1 + seen, 0);
                if
                :: !M_NO_ASLEEP_FENCE -> fence(me)
                :: M_NO_ASLEEP_FENCE
                fi;
                load(me, ring + REQUEST(next % SLOTS), got);
                if
                :: got == next && !M_WORKER_SLEEPS_UNCHECKED
                :: else ->
                    load(me, ring + ATTENTION, got);
                    if
                    :: got && !M_ATTENTION_UNCHECKED && !M_WORKER_SLEEPS_UNCHECKED
                    :: else ->
                        if
                        :: M_SUBMIT_SEEN_LATE -> load(me, ring + SUBMIT, seen)
                        :: !M_SUBMIT_SEEN_LATE
                        fi;
                        futex_wait(me, ring + SUBMIT, seen);
                        !sleeps[me]
                    fi
                fi;
                store(me, ring + ASLEEP, 0, 0);
                d_step { got = 0; seen = 0 }
            fi
        od
    } unless {
        atomic { me == WORKER && dead -> sleeps[me] = 0; sleeps_on[me] = 0 }
    }
}

/* The first worker is killed at any moment, or never. Of a direct channel the service notices, and
 * pc_ring_mark_gone tells the VMM; a coordinator looks itself. */
proctype supervisor()
{
    byte i;

    if
    :: DEATH -> dead = 1
    :: submitter_ended -> goto out
    fi;
    if
    :: !DIRECT -> goto out
    :: DIRECT
    fi;
    if
    :: M_GONE_AFTER_DONE ->
        add(SUPERVISOR, DONE);
        futex_wake(SUPERVISOR, DONE);
        store(SUPERVISOR, GONE, 1, 1)
    :: !M_GONE_AFTER_DONE ->
        atomic {
            do
            :: answered < BATCHES && memory[ANSWER((answered + 1) % SLOTS)] > answered -> answered++
            :: else -> break
            od;
            store(SUPERVISOR, GONE, 1, 1)
        };
        if
        :: !M_NO_GONE_INCREMENT -> add(SUPERVISOR, DONE)
        :: M_NO_GONE_INCREMENT
        fi;
        if
        :: !M_NO_WAKE_WHEN_GONE -> futex_wake(SUPERVISOR, DONE)
        :: M_NO_WAKE_WHEN_GONE
        fi
    fi;
out:
    skip
}

init {
    atomic {
        memory[WAKE_AT] = NOT_ASLEEP;
        memory[WORDS + WAKE_AT] = NOT_ASLEEP;
        run drain(SUBMITTER);
        run drain(WORKER);
        run drain(WORKER + 1);
        run drain(SUPERVISOR);
        run submitter();
        run worker(WORKER, 0);
        run supervisor()
    }
}
