package db_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/vfs"
)

// A crash is the file system after a power loss, with what must be in it.
type crash struct {
	fsys   *vfs.Mem
	at     string // the file operation before which it happened
	least  [killWriters]int
	most   [killWriters]int
	inOpen bool
}

// crashes takes crash clones while a store is in use.
type crashes struct {
	mem        *vfs.Mem
	durability db.Durability
	random     atomic.Int64 // seeds clones

	begun, acknowledged [killWriters]atomic.Int64
	opening             atomic.Bool

	mu    sync.Mutex
	taken []crash
}

// A clone is taken before one of so many operations, and at most so many clones.
const (
	crashEvery = 40
	crashesMax = 60
)

// inject takes a clone before some of the operations that decide what survives.
func (c *crashes) inject(op vfs.Op) error {
	switch op.Kind {
	case vfs.OpSync, vfs.OpSyncDir, vfs.OpRename, vfs.OpRemove, vfs.OpTruncate, vfs.OpWrite:
	default:
		return nil
	}
	seed := c.random.Add(1)
	if rand.IntN(crashEvery) != 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.taken) == crashesMax {
		return nil
	}
	taken := crash{at: fmt.Sprint(op.Kind, " ", op.Name), inOpen: c.opening.Load()}
	for w := range killWriters {
		taken.least[w] = int(c.acknowledged[w].Load())
	}
	taken.fsys = c.mem.CrashClone(seed)
	for w := range killWriters {
		taken.most[w] = int(c.begun[w].Load())
	}
	c.taken = append(c.taken, taken)
	return nil
}

// TestCrash loses power again and again: each time any part of what was not
// synced is lost, sector by sector. After each loss all acknowledged writes and
// batches are there, whole, and of each writer a prefix. One of the file systems
// left behind is used for the next round.
func TestCrash(t *testing.T) {
	for durability, generations := range map[db.Durability]int{db.DurabilitySync: 5, db.DurabilityNone: 3} {
		t.Run(durability.String(), func(t *testing.T) {
			if short() {
				generations = 2
			}
			seed := rand.Int64()
			t.Logf("seed %d", seed)
			fsys := vfs.NewMem()
			var done [killWriters]int
			checked, inOpen := 0, 0
			for generation := range generations {
				c := &crashes{mem: fsys, durability: durability}
				c.random.Store(seed + int64(generation)<<32)
				c.write(t, done)
				require.NotEmpty(t, c.taken)
				for i, taken := range c.taken {
					now := taken.check(t)
					checked++
					if taken.inOpen {
						inOpen++
					}
					if i == len(c.taken)-1 {
						fsys, done = taken.fsys, now
					}
				}
			}
			t.Logf("%d losses of power, %d of them during Open; %v writes in the end", checked, inOpen, done)
		})
	}
}

// write opens the store and writes until enough clones were taken.
func (c *crashes) write(t *testing.T, done [killWriters]int) {
	for w, n := range done {
		c.begun[w].Store(int64(n))
		c.acknowledged[w].Store(int64(n))
	}
	c.opening.Store(true)
	d, err := db.Open("store", db.Options{Durability: c.durability}.Tiny().On(vfs.NewFault(c.mem, c.inject)))
	require.NoError(t, err)
	c.opening.Store(false)
	var wait sync.WaitGroup
	for w := range killWriters {
		wait.Go(func() {
			for n := done[w] + 1; n < done[w]+400; n++ {
				c.begun[w].Store(int64(n))
				if err := write(d, killOps(w, n)); err != nil {
					t.Error(err)
					return
				}
				if c.durability == db.DurabilityNone {
					if n%syncEvery != 0 {
						continue
					}
					if err := d.Sync(); err != nil {
						t.Error(err)
						return
					}
				}
				c.acknowledged[w].Store(int64(n))
			}
		})
	}
	wait.Wait()
	require.NoError(t, d.Close())
}

// check opens the store after the crash and returns the number of each writer's
// writes that it found.
func (c *crash) check(t *testing.T) (done [killWriters]int) {
	t.Helper()
	d, err := db.Open("store", quiet().Tiny().On(c.fsys))
	require.NoError(t, err, "crash before %s", c.at)
	for w, found := range findWrites(t, d) {
		done[w] = matchWrites(t, w, map[string]string{}, found, 0, c.least[w], c.most[w])
	}
	require.NoError(t, d.Close())
	return done
}
