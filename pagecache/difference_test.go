package pagecache

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
	"github.com/pulkdb/db/snapshot"
)

// A tableModel compares mapping tables: that of a store at work with what an Open
// makes of its files.
type tableModel struct {
	t     *testing.T
	rng   *rand.Rand
	fs    *vfs.Mem
	cache *Cache
	pages []PID
	logs  bytes.Buffer // of the newest Open
}

// openQuiet opens a store whose goroutines do nothing unasked.
func openQuiet(t *testing.T, o Options) *Cache {
	o.SnapshotBytes = 1 << 40
	c := mustOpen(t, o)
	close(c.stop)
	c.background.Wait()
	c.stop = make(chan struct{})
	return c
}

func (m *tableModel) options(fs vfs.FS) Options {
	o := tiny(fs, stringPages{})
	o.CacheSize = 16 << 20
	m.logs.Reset()
	o.Logger = slog.New(slog.NewTextHandler(&m.logs, nil))
	return o
}

// slotsOf describes every slot of a table as a snapshot would.
func slotsOf(c *Cache) []snapshot.Slot {
	var slots []snapshot.Slot
	for pid := PID(1); pid <= c.pids.max(); pid++ {
		var s snapshot.Slot
		if !c.describeSlot(pid, &s) {
			continue
		}
		s.Stamp = 0 // a bound
		if s.State == snapshot.Free {
			// Replay does not tell a free record that was written anew from the
			// first.
			s.Positions = nil
		}
		slots = append(slots, s)
	}
	return slots
}

func (m *tableModel) pick() PID { return m.pages[m.rng.IntN(min(len(m.pages), 1+m.rng.IntN(40)))] }

// step changes the store a little.
func (m *tableModel) step() {
	c := m.cache
	switch n := m.rng.IntN(100); {
	case n < 10 || len(m.pages) < 30:
		pid, _, err := c.Allocate([]byte(m.text()))
		require.NoError(m.t, err)
		m.pages = append(m.pages, pid)
	case n < 16:
		i := m.rng.IntN(len(m.pages))
		_, key, err := c.Get(m.pages[i])
		require.NoError(m.t, err)
		require.NoError(m.t, c.Free(m.pages[i], key))
		m.pages = slices.Delete(m.pages, i, i+1)
	case n < 70:
		m.grow(m.pick())
	case n < 80:
		m.grow(m.pages[0])
		m.grow(m.pages[1])
		u := c.Begin()
		for _, pid := range []PID{m.pages[0], m.pages[1]} {
			v, err := u.Acquire(pid)
			require.NoError(m.t, err)
			u.Append(v, []byte(m.text()), 0)
		}
		_, err := u.Allocate([]byte("thought better of"))
		require.NoError(m.t, err)
		if m.rng.IntN(2) == 0 {
			u.Discard()
		} else {
			_, err := u.Commit()
			require.NoError(m.t, err)
		}
	case n < 86:
		c.evictAll()
	case n < 92:
		require.NoError(m.t, c.Sync())
		c.waitForGuards()
	case n < 95:
		m.clean()
	default:
		require.NoError(m.t, c.writeCheckpoint())
	}
}

// grow adds to a page, or makes a large one small.
func (m *tableModel) grow(pid PID) {
	page, key, err := m.cache.Get(pid)
	require.NoError(m.t, err)
	if len(page) > 1000 {
		_, err = m.cache.Set(pid, key, []byte(m.text()))
	} else {
		_, err = m.cache.Merge(pid, key, []byte(m.text()))
	}
	require.NoError(m.t, err)
}

func (m *tableModel) text() string { return strings.Repeat("x", 1+m.rng.IntN(200)) }

// clean empties one segment and asks for it.
func (m *tableModel) clean() {
	segments := m.cache.log.Segments()
	s := segments[m.rng.IntN(len(segments))]
	require.NoError(m.t, m.cache.Sync())
	m.cache.clean.mu.Lock()
	defer m.cache.clean.mu.Unlock()
	if s.End != 0 {
		require.NoError(m.t, m.cache.cleanSegment(s.Base))
		_, err := m.cache.checkpointForSpace()
		require.NoError(m.t, err)
	}
}

// requireSame opens fs and requires the table to be that of the store at work.
func (m *tableModel) requireSame(fs *vfs.Mem, warned bool) *Cache {
	m.t.Helper()
	c := openQuiet(m.t, m.options(fs))
	require.Equal(m.t, warned, strings.Contains(m.logs.String(), "level=WARN"), m.logs.String())
	require.Equal(m.t, slotsOf(m.cache), slotsOf(c))
	require.LessOrEqual(m.t, c.pids.max(), m.cache.pids.max())
	accountsFit(m.t, c)
	return c
}

// TestDifferences changes a store at random, with page-table snapshots as often
// as changes, and compares what an Open after a crash finds with the store. Then
// it damages or removes the newest files of snapshots, one after the other: Open
// must find the same, and say so, or refuse with damage.
func TestDifferences(t *testing.T) {
	rounds := 30
	if invariant.Debug {
		rounds = 8
	}
	var found, refused, longest int
	for seed := range uint64(4) {
		fs := vfs.NewMem()
		m := &tableModel{t: t, rng: rand.New(rand.NewPCG(seed, 7)), fs: fs}
		m.cache = openQuiet(t, m.options(fs))
		for range 300 {
			pid, _, err := m.cache.Allocate([]byte(m.text()))
			require.NoError(t, err)
			m.pages = append(m.pages, pid)
		}
		for round := range rounds {
			for range m.rng.IntN(60) {
				m.step()
			}
			require.NoError(t, m.cache.Sync())
			longest = max(longest, len(m.cache.checkpoint.chain))
			crashed := fs.CrashClone(int64(m.rng.Uint64() >> 1))
			c := m.requireSame(crashed.CrashClone(0), false)
			if round%3 == 0 {
				// Go on with it: the chain of differences does, too.
				require.NoError(t, m.cache.Close())
				m.cache, fs = c, c.options.FS.(*vfs.Mem)
			} else {
				require.NoError(t, c.Close())
			}
			f, r := m.damageOneByOne(crashed)
			found, refused = found+f, refused+r
		}
		require.NoError(t, m.cache.Close())
	}
	require.Positive(t, found, "fell back")
	require.Positive(t, refused)
	require.GreaterOrEqual(t, longest, 4)
}

// damageOneByOne spoils the files of snapshots, newest first.
func (m *tableModel) damageOneByOne(fs *vfs.Mem) (found, refused int) {
	files, err := snapshot.List(fs, "store")
	require.NoError(m.t, err)
	for i, f := range files {
		spoiled := true
		if m.rng.IntN(2) == 0 {
			require.NoError(m.t, fs.Remove(f.Name))
			spoiled = i > 0 // what is not there is not missed, but for a parent
		} else {
			require.True(m.t, fs.Corrupt(f.Name, m.rng.Int64N(f.Bytes), uint8(m.rng.IntN(8))))
		}
		m.logs.Reset()
		copied := fs.CrashClone(0)
		c, err := Open(m.options(copied))
		if err != nil {
			require.ErrorIs(m.t, err, ErrCorrupt)
			refused++
			continue
		}
		require.NoError(m.t, c.Close())
		if spoiled && i == 0 {
			require.Contains(m.t, m.logs.String(), "level=WARN")
		}
		c = openQuiet(m.t, m.options(fs.CrashClone(0)))
		require.Equal(m.t, slotsOf(m.cache), slotsOf(c))
		require.NoError(m.t, c.Close())
		found++
	}
	return found, refused
}

// TestDifferencesUnderWriters crashes a store of many pages under writers, who
// free and allocate too, a cleaner and a checkpointer that never rests. Each
// writer adds 1 to a page of its own and waits until that is durable; no count
// may be lost.
func TestDifferencesUnderWriters(t *testing.T) {
	const pages, workers, crashes = 160, 4, 25
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	yieldAtRandom(t, seed)
	rng := rand.New(rand.NewPCG(seed, 3))
	fs := vfs.NewMem()
	c := mustOpen(t, tiny(fs, counterPages{}))
	var pids [pages]PID
	for i := range pids {
		var err error
		pids[i], _, err = c.Allocate(nil)
		require.NoError(t, err)
	}
	require.NoError(t, c.Sync())
	var issued, acked [pages]atomic.Int64
	for crash := range crashes {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for w := range workers {
			rng := rand.New(rand.NewPCG(seed, uint64(crash*workers+w)))
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if rng.IntN(8) == 0 {
						churn(t, c, rng)
						continue
					}
					i := w + workers*min(rng.IntN(pages/workers), rng.IntN(pages/workers))
					issued[i].Add(1)
					addOnce(t, c, pids[i], 0, 1)
					if err := c.WaitDurable(c.LogTail()); err != nil {
						t.Errorf("wait: %v", err)
						return
					}
					acked[i].Add(1)
				}
			})
		}
		wg.Go(func() { cleanAlways(c, stop) })
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				var err error
				if n%3 == 0 {
					_, err = c.checkpointForSpace()
				} else {
					err = c.writeCheckpoint()
				}
				if err != nil {
					t.Errorf("snapshot: %v", err)
				}
			}
		})
		time.Sleep(time.Duration(rng.IntN(20000)) * time.Microsecond)
		var durable [pages]int64
		for i := range durable {
			durable[i] = acked[i].Load()
		}
		crashed := fs.CrashClone(int64(rng.Uint64() >> 1))
		close(stop)
		wg.Wait()
		require.NoError(t, c.Close())
		fs = crashed
		c = mustOpen(t, tiny(fs, counterPages{}))
		for i, pid := range pids {
			n := mustCount(t, c, pid, 0)
			at := fmt.Sprintf("seed %d crash %d page %d", seed, crash, pid)
			require.GreaterOrEqual(t, n, durable[i], at)
			require.LessOrEqual(t, n, issued[i].Load(), at)
			issued[i].Store(n)
			acked[i].Store(n)
		}
		accountsFit(t, c)
	}
	require.NoError(t, c.Close())
}

// TestPIDSet checks the set against a map.
func TestPIDSet(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	m, other, want := &pidSet{}, &pidSet{}, map[PID]bool{}
	for range 3000 {
		pid := PID(rng.IntN(20 * tableChunkSlots))
		if rng.IntN(2) == 0 {
			m.set(pid)
		} else {
			other.set(pid)
		}
		want[pid] = true
	}
	m.add(other)
	require.EqualValues(t, len(want), m.count())
	taken := m.take()
	require.Zero(t, m.count())
	require.EqualValues(t, len(want), taken.count())
	last := PID(0)
	for pid := range taken.all() {
		require.True(t, want[pid])
		require.True(t, last == 0 || pid > last)
		delete(want, pid)
		last = pid
	}
	require.Empty(t, want)
	for pid := range other.all() {
		require.True(t, pid > 0)
		break
	}
}

// TestTakeInBoundsFiles: whatever the numbers of changed slots, a snapshot is
// composed of few files, and slots are written again a bounded number of times.
func TestTakeInBoundsFiles(t *testing.T) {
	const slots = 1 << 16
	for _, changed := range []int{1, 20, 300, 5000} {
		rng := rand.New(rand.NewPCG(uint64(changed), 1))
		k := checkpointer{chain: []chainFile{{File: snapshot.File{Slots: slots}}}}
		written, sum, longest := uint64(0), 0, 0
		for range 2000 {
			pids := &pidSet{}
			n := 1 + rng.IntN(2*changed)
			for range n {
				pids.set(PID(rng.IntN(slots)))
			}
			sum += n
			base := k.takeIn(pids)
			f := chainFile{File: snapshot.File{Slots: slots}}
			if base > 0 {
				f.pids, f.Slots = pids, pids.count()
			}
			written += f.Slots
			k.chain = append(k.chain[:base:base], f)
			longest = max(longest, len(k.chain))
			for i := 1; i < len(k.chain); i++ {
				require.Greater(t, k.chain[i-1].Slots, mergeRatio*k.chain[i].Slots)
			}
		}
		amplification := float64(written) / float64(sum)
		t.Logf("%d changed slots per snapshot, of %d: %.1f written per changed slot, at most %d files", changed, slots, amplification, longest)
		require.LessOrEqual(t, longest, 18)
		require.Less(t, amplification, 1+logBase(1.5, slots/float64(changed)))
	}
}

func logBase(base, x float64) float64 {
	n := 0.0
	for ; x > 1; x /= base {
		n++
	}
	return n
}

// TestVacatedSegmentsGoAtOnce: two snapshots asked for space give back what was
// cleaned, however little was written between them.
func TestVacatedSegmentsGoAtOnce(t *testing.T) {
	m := &tableModel{t: t, rng: rand.New(rand.NewPCG(1, 7)), fs: vfs.NewMem()}
	m.cache = openQuiet(t, m.options(m.fs))
	c := m.cache
	for range 400 {
		pid, _, err := c.Allocate([]byte(strings.Repeat("x", 150)))
		require.NoError(t, err)
		m.pages = append(m.pages, pid)
	}
	require.NoError(t, c.Sync())
	require.NoError(t, c.writeCheckpoint())
	victim := c.log.Segments()[0]
	c.clean.mu.Lock()
	require.NoError(t, c.cleanSegment(victim.Base))
	c.clean.mu.Unlock()
	recycled, err := c.checkpointForSpace()
	require.NoError(t, err)
	require.Equal(t, 1, recycled)
	require.False(t, slices.ContainsFunc(c.log.Segments(), func(s log.SegmentInfo) bool { return s.Base == victim.Base }))
	chain := c.checkpoint.chain
	require.Greater(t, len(chain), 1)
	require.Zero(t, chain[len(chain)-1].Slots)
	require.NoError(t, m.requireSame(m.fs.CrashClone(1), false).Close())
	require.NoError(t, c.Close())
}
