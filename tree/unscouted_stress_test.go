package tree

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/vfs"
)

// A writer of TestUnscoutedBesideAll has keys of its own between those of the others, so
// that they share leaves, and knows what is in them.
type mixedWriter struct {
	id   int
	rng  *rand.Rand
	tr   *Tree
	have map[string]string
	n    int // its commits
}

const (
	mixedWriters = 3
	mixedKeys    = 200 // of each
	mixedMarks   = 5   // keys that each commit of a writer sets to the same number
)

func (w *mixedWriter) key(i int) string { return fmt.Sprintf("%04d/%d", i, w.id) }

func (w *mixedWriter) mark(i int) string {
	return fmt.Sprintf("%04d~mark%d", i*mixedKeys/mixedMarks, w.id)
}

// commit writes some keys, and reads others first if it is a transaction.
func (w *mixedWriter) commit() error {
	w.n++
	now := map[string]*string{} // nil: deleted
	put := func(k, v string) { now[k] = &v }
	for i := range mixedMarks {
		put(w.mark(i), fmt.Sprint(w.n))
	}
	emptying := w.n/25%2 == 1
	for range w.rng.IntN(40) {
		k := w.key(w.rng.IntN(mixedKeys))
		if now[k] = nil; !emptying {
			put(k, string(value(fmt.Sprint(w.n, k), 1+w.rng.IntN(60))))
		}
	}
	if emptying { // a run of them
		from := w.rng.IntN(mixedKeys)
		for i := from; i < min(from+30, mixedKeys); i++ {
			now[w.key(i)] = nil
		}
	} else if w.rng.IntN(10) == 0 {
		put(w.key(w.rng.IntN(mixedKeys)), string(value("large", 400)))
	}
	x := &Writes{}
	for _, k := range slices.Sorted(maps.Keys(now)) {
		op := Op{Key: []byte(k), Kind: OpDelete}
		if v := now[k]; v != nil {
			op.Kind, op.Value = OpSet, []byte(*v)
		}
		x.Ops = append(x.Ops, op)
	}
	if err := w.send(x); err != nil {
		return err
	}
	for k, v := range now {
		if delete(w.have, k); v != nil {
			w.have[k] = *v
		}
	}
	return nil
}

// send commits x, in every other case as a transaction that has read keys of this writer,
// which do not conflict, and of another, which may.
func (w *mixedWriter) send(x *Writes) error {
	if w.rng.IntN(2) == 0 {
		return w.tr.Commit(x, nil)
	}
	for try := 0; ; try++ {
		m := w.tr.OpenMoment()
		r := &Reads{Moment: m}
		keys := map[string]bool{}
		for range 6 {
			keys[w.key(w.rng.IntN(mixedKeys))] = true
		}
		if try < 20 {
			other := mixedWriter{id: (w.id + 1) % mixedWriters}
			keys[other.key(w.rng.IntN(mixedKeys))] = true
		}
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			if _, err := w.read(m, k); err != nil {
				m.Close()
				return err
			}
			r.Keys = append(r.Keys, []byte(k))
		}
		err := w.tr.Commit(x, r)
		m.Close()
		if !errors.Is(err, ErrConflict) {
			return err
		}
		if try >= 20 {
			return fmt.Errorf("writer %d: conflict although nobody else writes what it read", w.id)
		}
	}
}

// read returns a key's value as of m, or the newest, and checks it if the key is this writer's.
func (w *mixedWriter) read(m *Moment, k string) (string, error) {
	stamp := uint64(newestMoment)
	if m != nil {
		stamp = m.Stamp()
	}
	got, err := w.tr.getAt(stamp, nil, []byte(k))
	if err != nil && err != ErrNotFound {
		return "", err
	}
	want, ok := w.have[k]
	if own := strings.HasSuffix(k, fmt.Sprint("/", w.id)); own && (ok != (err == nil) || string(got) != want) {
		return "", fmt.Errorf("%s = %q, %v; want %q, %t", k, got, err, want, ok)
	}
	return string(got), nil
}

// marksAgree reads all rows: of each writer the marks are of one commit.
func marksAgree(tr *Tree) error {
	it := tr.Scan(nil, nil)
	defer it.Close()
	seen := map[string][]string{}
	for it.Next() {
		if _, id, ok := strings.Cut(string(it.Key()), "~mark"); ok {
			seen[id] = append(seen[id], string(it.Value()))
		}
	}
	for id, marks := range seen {
		if len(marks) != mixedMarks || len(slices.Compact(marks)) != 1 {
			return fmt.Errorf("writer %s: a commit is seen in part: %q", id, marks)
		}
	}
	return it.Err()
}

// Batches and transactions that do not scout, whose leaves are split, joined, evicted,
// moved by the cleaner and written to by others on the way, do what they should, whole,
// and nobody waits for ever.
func TestUnscoutedBesideAll(t *testing.T) {
	commits := 150
	if invariant.Debug {
		commits = 60
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var calls atomic.Uint64
	yieldHook = func(p yieldPoint) {
		switch n := (seed ^ calls.Add(1)<<8 ^ uint64(p)) * 0x9e3779b97f4a7c15 >> 40; {
		case n%64 == 0 && p != yieldSpin:
			time.Sleep(50 * time.Microsecond)
		case n%4 == 0:
			runtime.Gosched()
		}
	}
	t.Cleanup(func() { yieldHook = nil })
	fs := vfs.NewMem()
	o := tinyOnDisk(fs)
	tr, err := Open(o)
	require.NoError(t, err)
	var writers []*mixedWriter
	var writing, reading sync.WaitGroup
	for id := range mixedWriters {
		w := &mixedWriter{id: id, rng: rand.New(rand.NewPCG(seed, uint64(id))), tr: tr, have: map[string]string{}}
		writers = append(writers, w)
		writing.Go(func() {
			for range commits {
				err := w.commit()
				if err == nil {
					_, err = w.read(nil, w.key(w.rng.IntN(mixedKeys)))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var stop atomic.Bool
	reading.Go(func() {
		for i := 0; !stop.Load(); i++ {
			if i%10 == 0 {
				if err := marksAgree(tr); err != nil {
					t.Error(err)
					return
				}
			}
			// At the end of the key space, beside the marks.
			if err := tr.Set(fmt.Appendf(nil, "z%06d", i%200), []byte("tail")); err != nil {
				t.Error(err)
				return
			}
		}
		if err := tr.DeleteRange([]byte("z"), nil); err != nil {
			t.Error(err)
		}
	})
	writing.Wait()
	stop.Store(true)
	reading.Wait()
	model := map[string]string{}
	for _, w := range writers {
		maps.Copy(model, w.have)
	}
	sameRows(t, modelRows(model, nil, nil), rows(t, tr.Scan(nil, nil)))
	require.NoError(t, tr.Check())
	m := tr.Metrics()
	t.Logf("%d splits, %d joins, %d restarts, %d conflicts, %d blind, %d evictions, %d segments cleaned",
		m.LeafSplits, m.LeafJoins, m.BatchRestarts, m.Conflicts, m.BlindUpdates, m.Cache.Evictions, m.Cache.CleanedSegments)
	require.NoError(t, tr.Close())
	tr, err = Open(o)
	require.NoError(t, err)
	sameRows(t, modelRows(model, nil, nil), rows(t, tr.Scan(nil, nil)))
	require.NoError(t, tr.Check())
	require.NoError(t, tr.Close())
}
