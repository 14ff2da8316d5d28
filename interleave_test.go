package db_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/interleave"
	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/testhooks"
	"github.com/pulkdb/db/internal/vfs"
)

// TestInterleavings searches the interleavings of a few calls on a few keys, in a
// store so small that the leaves they meet are split, joined, evicted and loaded
// meanwhile: the answers must have an order that explains them, pairs of keys that
// are written together must be seen together, and the tree must be whole.
//
// PULK_INTERLEAVE says how long it searches, PULK_SEED where it begins.
func TestInterleavings(t *testing.T) {
	duration := 5 * time.Second
	if d, err := time.ParseDuration(os.Getenv("PULK_INTERLEAVE")); err == nil {
		duration = d
	}
	seed := rand.Uint64() >> 1
	if s, err := strconv.ParseUint(os.Getenv("PULK_SEED"), 10, 64); err == nil {
		seed = s
	}
	runs, steps := 0, 0
	for deadline := time.Now().Add(duration); time.Now().Before(deadline) && !t.Failed(); seed++ {
		runs++
		r := interleaveCalls(t, seed)
		steps += r.steps
		require.Empty(t, r.wrong, "seed %d", seed)
	}
	t.Logf("%d interleavings, %d steps", runs, steps)
	crashtest.ReportCount(t, runs, "interleavings")
}

// TestInterleavingsComeAgain: a seed leads to the same steps and answers again. A
// goroutine that the system holds up for long is preempted, and then it need not: so
// a few of many seeds may differ. In debug builds goroutines give way at random.
func TestInterleavingsComeAgain(t *testing.T) {
	if invariant.Debug {
		t.Skip("debug builds have choices of their own")
	}
	const seeds = 40
	same := 0
	for seed := range uint64(seeds) {
		first, again := interleaveCalls(t, seed), interleaveCalls(t, seed)
		if first.steps == again.steps && reflect.DeepEqual(first.history, again.history) {
			same++
		}
	}
	t.Logf("%d of %d", same, seeds)
	require.Greater(t, same, seeds*3/4)
}

// TestInterleavingsFindMistakes: with a mistake planted, an interleaving that shows
// it is found. In debug builds, which have the switches.
func TestInterleavingsFindMistakes(t *testing.T) {
	if !invariant.Debug {
		t.Skip("needs a debug build")
	}
	for name, mistake := range map[string]*testhooks.Switch{
		"PublishLeafByLeaf":  &testhooks.PublishLeafByLeaf,
		"DropNeededVersions": &testhooks.DropNeededVersions,
	} {
		t.Run(name, func(t *testing.T) {
			mistake.Set(true)
			defer mistake.Set(false)
			for seed := range uint64(400) {
				if r := interleaveCalls(t, seed); len(r.wrong) > 0 {
					t.Logf("found by seed %d: %s", seed, r.wrong[0])
					return
				}
			}
			t.Error("not found")
		})
	}
}

// An interleaving is what a run came to.
type interleaving struct {
	clock atomic.Int64

	mu      sync.Mutex
	history []porcupine.Operation // Guarded by mu.
	wrong   []string              // Guarded by mu.

	steps int
}

func (x *interleaving) errorf(format string, args ...any) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.wrong = append(x.wrong, fmt.Sprintf(format, args...))
}

func (x *interleaving) check(err error) {
	if err != nil {
		x.errorf("%v", err)
	}
}

const (
	interleaveWorkers = 3
	interleaveOps     = 12
	interleaveKeys    = 3
)

// interleaveCalls is one run.
func interleaveCalls(t *testing.T, seed uint64) *interleaving {
	x := &interleaving{}
	random := rand.New(rand.NewPCG(seed, 1))
	opts := db.Options{Durability: db.DurabilityNone, CacheSize: 128 << 10, Logger: quiet().Logger}
	if random.IntN(3) == 0 {
		opts.Durability = db.DurabilitySync
	}
	x.steps = interleave.Run(t, seed, func(t *testing.T) (workers []func(), after func()) {
		d, err := db.Open("store", opts.Folding(1+random.IntN(6)).Tiny().On(vfs.NewMem()))
		require.NoError(t, err)
		for i := range 60 {
			require.NoError(t, d.Set(fmt.Appendf(nil, "key %d %03d", i%interleaveKeys, i), []byte(strings.Repeat("filler", random.IntN(12)))))
		}
		for w := range interleaveWorkers {
			r := rand.New(rand.NewPCG(seed, uint64(w)+2))
			workers = append(workers, func() {
				s := d.Snapshot()
				before, _ := s.Get([]byte("key 0 pair"))
				for i := range interleaveOps {
					if i == interleaveOps/2 {
						if now, _ := s.Get([]byte("key 0 pair")); string(now) != string(before) {
							x.errorf("a moment showed %q and shows %q", before, now)
						}
						x.check(s.Close())
					}
					if r.IntN(3) > 0 {
						x.noise(d, r, w, i)
					} else {
						x.call(d, r, w, i)
					}
				}
			})
		}
		return workers, func() {
			if !porcupine.CheckOperations(registers, x.history) {
				x.errorf("no order explains the answers: %v", x.history)
			}
			x.check(d.CheckTree())
			x.check(d.Close())
		}
	})
	return x
}

// call makes one call and keeps what it answered.
func (x *interleaving) call(d *db.DB, r *rand.Rand, w, i int) {
	in := call{key: r.IntN(interleaveKeys), new: fmt.Sprintf("%d.%d", w, i)}
	in.kind = []string{"get", "get", "set", "delete", "swap"}[r.IntN(5)]
	op := porcupine.Operation{ClientId: w, Input: in, Call: x.clock.Add(1)}
	out, err := in.run(d)
	op.Output, op.Return = out, x.clock.Add(1)
	x.check(err)
	x.mu.Lock()
	x.history = append(x.history, op)
	x.mu.Unlock()
}

// noise is what goes on beside the calls whose answers are checked: pairs,
// ranges and scans, which check themselves.
func (x *interleaving) noise(d *db.DB, r *rand.Rand, w, i int) {
	var err error
	a, b := []byte("key 0 pair"), []byte("key 2 pair")
	switch r.IntN(6) {
	case 0:
		batch := d.NewBatch()
		value := fmt.Appendf(nil, "%d.%d", w, i)
		_ = batch.Set(a, value)
		_ = batch.Set(b, value)
		err = batch.Commit()
	case 1:
		s := d.Snapshot()
		v, errV := s.Get(a)
		u, errU := s.Get(b)
		if string(v) != string(u) || (errV == nil) != (errU == nil) {
			x.errorf("one moment shows %q and %q", v, u)
		}
		err = s.Close()
	case 2:
		it := d.Scan(nil, nil)
		move, order := it.Next, 1
		if r.IntN(2) == 0 {
			move, order = it.Prev, -1
		}
		last, v, u := "", "", ""
		for rows := 0; move(); rows++ {
			key := string(it.Key())
			if rows > 0 && strings.Compare(key, last) != order {
				x.errorf("%q follows %q", key, last)
			}
			switch last = key; key {
			case string(a):
				v = string(it.Value())
			case string(b):
				u = string(it.Value())
			}
		}
		if v != u {
			x.errorf("one scan shows %q and %q", v, u)
		}
		err = it.Close()
	case 3:
		lo := r.IntN(60)
		err = d.DeleteRange(fmt.Appendf(nil, "key 1 %03d", lo), fmt.Appendf(nil, "key 1 %03d", lo+r.IntN(30)))
	default:
		err = d.Set(fmt.Appendf(nil, "key %d %03d", r.IntN(interleaveKeys), r.IntN(100)), []byte(strings.Repeat("noise", r.IntN(20))))
	}
	x.check(err)
}
