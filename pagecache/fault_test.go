package pagecache

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/vfs"
)

var errInjected = errors.New("injected")

// A faultRun is a workload on a file system that may fail, and what it knows of
// its pages: every state that each was in, and from which on they are durable.
type faultRun struct {
	t       *testing.T
	c       *Cache
	pids    []PID
	keys    []Key
	states  [][]string
	durable []int // index into states
}

// TestFault fails the i-th file operation, for every i. Nothing may hang or
// panic, every error names its cause, reads give what was written or an error,
// and what was synced is there afterwards.
func TestFault(t *testing.T) {
	step := int64(1)
	if invariant.Debug {
		step = 5
	}
	for i := int64(0); ; i += step {
		mem := vfs.NewMem()
		var hit atomic.Bool
		r := &faultRun{t: t}
		fs := vfs.NewFault(mem, func(op vfs.Op) error {
			if op.Index != i {
				return nil
			}
			hit.Store(true)
			return fmt.Errorf("%w: operation %d: %v %s", errInjected, i, op.Kind, op.Name)
		})
		r.run(fs)
		if !hit.Load() {
			t.Logf("%d operations", i)
			break
		}
		for seed := range int64(2) {
			r.check(mem.CrashClone(seed))
		}
	}
}

func (r *faultRun) run(fs vfs.FS) {
	c, err := Open(tiny(fs, stringPages{}))
	if err != nil {
		require.ErrorIs(r.t, err, errInjected)
		return
	}
	r.c = c
	err = r.work()
	if err != nil {
		require.ErrorIs(r.t, err, errInjected)
	}
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			require.ErrorIs(r.t, err, errInjected)
		} else {
			r.synced()
		}
	case <-time.After(20 * time.Second):
		r.t.Fatal("Close hangs")
	}
}

func (r *faultRun) work() error {
	for range 8 {
		pid, key, err := r.c.Allocate([]byte("base"))
		if err != nil {
			return err
		}
		r.pids, r.keys = append(r.pids, pid), append(r.keys, key)
		r.states, r.durable = append(r.states, []string{"", "base"}), append(r.durable, 0)
	}
	for round := range 4 {
		for i := range r.pids {
			if err := r.change(i, strings.Repeat(string(rune('a'+round)), 300)); err != nil {
				return err
			}
		}
		if err := r.c.Sync(); err != nil {
			return err
		}
		r.synced()
		r.c.evictAll()
		if err := r.together(strings.Repeat("u", 900)); err != nil {
			return err
		}
		if err := r.read(); err != nil {
			return err
		}
		if err := r.c.writeCheckpoint(); err != nil && !errors.Is(err, errInjected) {
			return err
		}
		for _, s := range r.c.log.Segments() {
			r.c.clean.mu.Lock()
			if s.End != 0 {
				_ = r.c.cleanSegment(s.Base)
			}
			r.c.clean.mu.Unlock()
		}
	}
	return nil
}

func (r *faultRun) now(i int) string { return r.states[i][len(r.states[i])-1] }

func (r *faultRun) change(i int, delta string) error {
	r.states[i] = append(r.states[i], r.now(i)+delta)
	key, err := r.c.Merge(r.pids[i], r.keys[i], []byte(delta))
	if err != nil {
		return err
	}
	r.keys[i] = key
	return nil
}

// together changes all pages in one Update, a group of records.
func (r *faultRun) together(delta string) error {
	u := r.c.Begin()
	for i, pid := range r.pids {
		v, err := u.Acquire(pid)
		if err != nil {
			u.Discard()
			return err
		}
		u.Append(v, []byte(delta), 0)
		r.states[i] = append(r.states[i], r.now(i)+delta)
		r.keys[i] = Key{r.keys[i].version + 1}
	}
	_, err := u.Commit()
	return err
}

// read reads all pages; one read may fail, and then the page can be read again.
func (r *faultRun) read() error {
	failed := 0
	for i, pid := range r.pids {
		for {
			page, _, err := r.c.Get(pid)
			if err == nil {
				require.Equal(r.t, r.now(i), string(page))
				break
			}
			require.ErrorIs(r.t, err, errInjected)
			failed++
			require.LessOrEqual(r.t, failed, 1)
		}
	}
	return nil
}

func (r *faultRun) synced() {
	for i := range r.states {
		r.durable[i] = len(r.states[i]) - 1
	}
}

func (r *faultRun) check(fs *vfs.Mem) {
	c := mustOpen(r.t, tiny(fs, stringPages{}))
	changes := -1
	for i, pid := range r.pids {
		page, _, err := c.Get(pid)
		if errors.Is(err, ErrGone) {
			err = nil
		}
		require.NoError(r.t, err)
		require.Contains(r.t, r.states[i][r.durable[i]:], string(page))
		together := strings.Count(string(page), strings.Repeat("u", 900))
		if changes < 0 {
			changes = together
		}
		if i > 0 {
			require.Equal(r.t, changes, together, "an Update came back in part")
		}
	}
	accountsFit(r.t, c)
	require.NoError(r.t, c.Close())
}

// TestFaultOnOpen fails the i-th operation of opening a store that has contents:
// Open says so, or the store is as it was.
func TestFaultOnOpen(t *testing.T) {
	mem := vfs.NewMem()
	r := &faultRun{t: t}
	c := mustOpen(t, tiny(mem, stringPages{}))
	r.c = c
	require.NoError(t, r.work())
	require.NoError(t, c.Sync())
	r.synced()
	mem = mem.CrashClone(0) // a snapshot and a piece of log
	require.NoError(t, c.Close())
	step := int64(1)
	if invariant.Debug {
		step = 2
	}
	for _, lasting := range []bool{false, true} {
		for i := int64(0); ; i += step {
			clone := mem.CrashClone(0)
			var hit atomic.Bool
			fs := vfs.NewFault(clone, func(op vfs.Op) error {
				if op.Index == i || lasting && op.Index > i {
					hit.Store(true)
					return fmt.Errorf("%w: operation %d: %v %s", errInjected, i, op.Kind, op.Name)
				}
				return nil
			})
			c, err := Open(tiny(fs, stringPages{}))
			opened := hit.Load()
			if err != nil {
				require.ErrorIs(t, err, errInjected)
			} else {
				r.c = c
				if !lasting {
					require.NoError(t, r.read())
				}
				_ = c.Close()
			}
			r.check(clone.CrashClone(1))
			if !opened {
				t.Logf("%d operations", i)
				break
			}
		}
	}
}
