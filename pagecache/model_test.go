package pagecache

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/vfs"
)

// A model is what a page cache of string pages should hold.
type model struct {
	t     *testing.T
	rng   *rand.Rand
	fs    *vfs.Mem
	cache *Cache
	pages map[PID]string
	keys  map[PID]Key
	dead  []PID
	step  int
}

func TestModel(t *testing.T) {
	steps := 20000
	if invariant.Debug {
		steps = 6000
	}
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			m := &model{t: t, rng: rand.New(rand.NewPCG(seed, 1)), fs: vfs.NewMem(), pages: map[PID]string{}, keys: map[PID]Key{}}
			m.cache = mustOpen(t, tiny(m.fs, stringPages{}))
			for m.step = range steps {
				m.act()
			}
			m.restart()
			m.checkAll()
			require.NoError(t, m.cache.Close())
		})
	}
}

func (m *model) act() {
	switch n := m.rng.IntN(1000); {
	case n < 60 || len(m.pages) == 0:
		m.allocate()
	case n < 500:
		m.merge(m.pick())
	case n < 560:
		m.set(m.pick())
	case n < 600:
		m.free(m.pick())
	case n < 640:
		m.staleKey(m.pick())
	case n < 900:
		m.get(m.pick())
	case n < 960:
		m.update()
	case n < 985:
		m.cache.evictAll()
	case n < 990:
		require.NoError(m.t, m.cache.writeCheckpoint())
	case n < 992:
		m.cache.cleanOnce()
	case n < 995:
		m.restart()
	case n < 997:
		m.crash()
	default:
		m.getFreed()
	}
}

func (m *model) pick() PID {
	for pid := range m.pages {
		if m.rng.IntN(4) == 0 {
			return pid
		}
	}
	for pid := range m.pages {
		return pid
	}
	return 0
}

func (m *model) text() string {
	return strings.Repeat(string(rune('a'+m.rng.IntN(26))), 1+m.rng.IntN(60))
}

func (m *model) allocate() {
	s := m.text()
	pid, key, err := m.cache.Allocate([]byte(s))
	require.NoError(m.t, err)
	require.NotContains(m.t, m.pages, pid)
	m.pages[pid], m.keys[pid] = s, key
}

func (m *model) merge(pid PID) {
	if len(m.pages[pid]) > 800 {
		m.set(pid)
		return
	}
	s := m.text()
	key, err := m.cache.Merge(pid, m.keys[pid], []byte(s))
	require.NoError(m.t, err, "step %d page %d", m.step, pid)
	m.pages[pid] += s
	m.keys[pid] = key
}

func (m *model) set(pid PID) {
	s := m.text()
	key, err := m.cache.Set(pid, m.keys[pid], []byte(s))
	require.NoError(m.t, err)
	m.pages[pid], m.keys[pid] = s, key
}

func (m *model) free(pid PID) {
	require.NoError(m.t, m.cache.Free(pid, m.keys[pid]))
	m.forget(pid)
}

func (m *model) forget(pid PID) {
	delete(m.pages, pid)
	delete(m.keys, pid)
	m.dead = append(m.dead, pid)
}

func (m *model) staleKey(pid PID) {
	stale := Key{m.keys[pid].version - 1}
	_, err := m.cache.Merge(pid, stale, []byte("never"))
	var changed *ChangedError
	require.ErrorAs(m.t, err, &changed)
	require.Equal(m.t, m.keys[pid], changed.Key)
	_, err = m.cache.Set(pid, stale, []byte("never"))
	require.ErrorIs(m.t, err, ErrChanged)
}

func (m *model) get(pid PID) {
	data, key, err := m.cache.Get(pid)
	require.NoError(m.t, err, "step %d page %d", m.step, pid)
	require.Equal(m.t, m.pages[pid], string(data), "step %d page %d", m.step, pid)
	require.Equal(m.t, m.keys[pid], key)
}

func (m *model) getFreed() {
	if len(m.dead) == 0 {
		return
	}
	pid := m.dead[m.rng.IntN(len(m.dead))]
	if _, ok := m.pages[pid]; ok {
		return
	}
	_, _, err := m.cache.Get(pid)
	require.ErrorIs(m.t, err, ErrGone)
}

// update changes several pages in one record, sometimes one too large for it.
func (m *model) update() {
	u := m.cache.Begin()
	want := map[PID]string{}
	var freed []PID
	for range 1 + m.rng.IntN(6) {
		pid := m.pick()
		if _, ok := want[pid]; ok || len(m.pages) < 8 {
			continue
		}
		v, err := u.Acquire(pid)
		require.NoError(m.t, err)
		switch s := m.text(); m.rng.IntN(4) {
		case 0:
			u.Append(v, []byte(s), 0)
			u.Append(v, []byte("+"), 0)
			want[pid] = m.pages[pid] + s + "+"
		case 1:
			u.Append(v, []byte(s), 0)
			want[pid] = m.pages[pid] + s
		case 2:
			s += strings.Repeat("z", m.rng.IntN(900))
			u.Replace(v, []byte(s))
			want[pid] = s
		case 3:
			u.Free(v)
			want[pid] = ""
			freed = append(freed, pid)
		}
	}
	for range m.rng.IntN(4) {
		s := m.text() + strings.Repeat("y", m.rng.IntN(900))
		pid, err := u.Allocate([]byte(s))
		require.NoError(m.t, err)
		want[pid] = s
	}
	if m.rng.IntN(5) == 0 {
		u.Discard()
		m.checkAll()
		return
	}
	r, err := u.Commit()
	require.NoError(m.t, err)
	require.Equal(m.t, Done, r.Outcome)
	for pid, s := range want {
		key, err := m.cache.keyOf(pid)
		if !errors.Is(err, ErrGone) {
			require.NoError(m.t, err)
		}
		m.pages[pid], m.keys[pid] = s, key
	}
	for _, pid := range freed {
		m.forget(pid)
	}
}

func (m *model) restart() {
	require.NoError(m.t, m.cache.Close())
	m.cache = mustOpen(m.t, tiny(m.fs, stringPages{}))
	m.checkAll()
}

// crash loses what is not synced after all that is in the model was.
func (m *model) crash() {
	require.NoError(m.t, m.cache.Sync())
	crashed := m.fs.CrashClone(int64(m.rng.Uint64() >> 1))
	_ = m.cache.Close()
	m.fs = crashed
	m.cache = mustOpen(m.t, tiny(m.fs, stringPages{}))
	m.checkAll()
}

func (m *model) checkAll() {
	for pid := range m.pages {
		m.get(pid)
	}
	m.checkAccounts()
}

// checkAccounts compares the live bytes of the segments with what the table
// refers to. A background change may stand between its publication and its
// booking, so a difference counts only when it stays.
func (m *model) checkAccounts() {
	m.t.Helper()
	for try := 0; ; try++ {
		difference := m.accountsDiffer()
		if difference == "" {
			return
		}
		if try == 200 {
			require.Fail(m.t, difference)
		}
		time.Sleep(time.Millisecond)
	}
}

func (m *model) accountsDiffer() string {
	c := m.cache
	want := map[LSN]int64{}
	c.evict.sweeps.Lock()
	defer c.evict.sweeps.Unlock()
	c.clean.mu.Lock()
	defer c.clean.mu.Unlock()
	g := c.Pin()
	defer g.Unpin()
	for pid := PID(1); pid <= c.pids.max(); pid++ {
		word := c.table.slot(pid).Load()
		if word == 0 {
			continue
		}
		if c.headerAt(word).kind == nodeFree {
			if p := c.freeAt(word).position(); !p.IsZero() {
				want[c.log.SegmentOf(p.LSN)] += int64(p.Size)
			}
			continue
		}
		v, err := c.viewWord(pid, word)
		require.NoError(m.t, err)
		for _, p := range v.bottom.appendPositions(nil) {
			want[c.log.SegmentOf(p.LSN)] += int64(p.Size)
		}
		for d := v.top(); d != nil; d = c.olderDelta(d) {
			want[c.log.SegmentOf(d.position().LSN)] += int64(d.size)
		}
	}
	for _, s := range c.log.Segments() {
		if want[s.Base] != s.Live {
			return fmt.Sprintf("step %d: segment %v has %d live bytes, %d are referred to", m.step, s.Base, s.Live, want[s.Base])
		}
	}
	return ""
}
