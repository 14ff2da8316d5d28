package log

import (
	"errors"
	"fmt"
	"math/rand"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
)

// setYield makes goroutines give way at random yield points.
func setYield(t *testing.T) {
	yieldHook = func(yieldPoint) {
		switch rand.Intn(12) {
		case 0:
			runtime.Gosched()
		case 1:
			time.Sleep(time.Duration(rand.Intn(50)) * time.Microsecond)
		}
	}
	t.Cleanup(func() { yieldHook = nil })
}

// A modelWriter is one goroutine of TestModel.
type modelWriter struct {
	t    *testing.T
	id   int
	log  *Log
	rnd  *rand.Rand
	next int
	mine []delivered // what counts, of this writer
	all  *sharedPositions
}

type sharedPositions struct {
	mu   sync.Mutex
	list []delivered
}

func (s *sharedPositions) add(d delivered) {
	s.mu.Lock()
	s.list = append(s.list, d)
	s.mu.Unlock()
}

func (s *sharedPositions) pick(rnd *rand.Rand) (delivered, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) == 0 {
		return delivered{}, false
	}
	return s.list[rnd.Intn(len(s.list))], true
}

func (w *modelWriter) update() Update {
	w.next++
	p := make([]byte, w.rnd.Intn(120))
	w.rnd.Read(p)
	return Update{PID: PID(w.id), Version: uint64(w.next), Kind: KindReplace, Compressed: w.rnd.Intn(2) == 0, Payload: p}
}

func (w *modelWriter) run(steps int) {
	for range steps {
		s := Stream(w.rnd.Intn(6) / 5)
		switch k := w.rnd.Intn(20); {
		case k < 10:
			u := w.update()
			u.Stamp = w.rnd.Uint64()
			r, err := w.log.Reserve(s, UpdateSize(u.PID, u.Version, len(u.Payload)))
			if !assert.NoError(w.t, err) {
				return
			}
			p := r.Append(u)
			if k == 0 {
				r.Abort()
				continue
			}
			end := r.Complete(u.Stamp)
			w.mine = append(w.mine, delivered{u, p})
			w.all.add(delivered{u, p})
			if k == 1 {
				assert.NoError(w.t, w.log.WaitDurable(s, end))
				assert.GreaterOrEqual(w.t, w.log.Durable(s), end)
			}
		case k < 11:
			w.group(s)
		case k < 13:
			assert.NoError(w.t, w.log.Throttle())
		case k < 14:
			assert.LessOrEqual(w.t, w.log.ReplayStart()[Fresh], w.log.Tail(Fresh))
		default:
			if d, ok := w.all.pick(w.rnd); ok {
				u, _, err := w.log.Read(d.Position, nil)
				if assert.NoError(w.t, err) {
					assert.Equal(w.t, d.Update, u)
				}
			}
		}
	}
}

func (w *modelWriter) group(s Stream) {
	g := w.log.NewGroup(s)
	var list []delivered
	parts := 1 + w.rnd.Intn(4)
	for i := range parts {
		u := w.update()
		r, err := g.Reserve(UpdateSize(u.PID, u.Version, len(u.Payload)), i == parts-1)
		if !assert.NoError(w.t, err) {
			return
		}
		p := r.Append(u)
		u.Stamp = 5
		list = append(list, delivered{u, p})
		if i < parts-1 {
			r.Complete(0)
			continue
		}
		if w.rnd.Intn(2) == 0 {
			r.Abort()
			g.Abandon()
			return
		}
		r.Complete(5)
	}
	w.mine = append(w.mine, list...)
}

// TestModel runs writers and readers against what they remember, through
// several openings.
func TestModel(t *testing.T) {
	setYield(t)
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	fs := vfs.NewMem()
	all := &sharedPositions{}
	var want []delivered
	for generation := range 3 {
		o := tiny(fs)
		o.Preallocate = generation == 1
		if generation == 2 {
			o.FlushInterval = time.Millisecond
		}
		l, _ := open(t, o)
		var group sync.WaitGroup
		writers := make([]*modelWriter, 4)
		for i := range writers {
			w := &modelWriter{t: t, id: i, log: l, rnd: rand.New(rand.NewSource(seed + int64(10*generation+i))), all: all}
			writers[i] = w
			group.Add(1)
			go func() {
				defer group.Done()
				w.run(300)
			}()
		}
		group.Wait()
		require.NoError(t, l.Close())
		require.ErrorIs(t, l.Close(), ErrClosed)
		for _, w := range writers {
			want = append(want, w.mine...)
		}
		l, err := Open(tiny(fs))
		require.NoError(t, err)
		got := replayAll(t, l, Marks{})
		require.NoError(t, l.Close())
		byPosition := func(a, b delivered) int { return int(int64(a.Position.LSN) - int64(b.Position.LSN)) }
		slices.SortFunc(want, byPosition)
		slices.SortFunc(got, byPosition)
		require.Equal(t, want, got)
	}
}

// TestRecycle reads while segments go and their files come back under other
// names: a read gives what was written, or ErrGone (L6).
func TestRecycle(t *testing.T) {
	setYield(t)
	fs := vfs.NewMem()
	l, _ := open(t, tiny(fs))
	all := &sharedPositions{}
	stop := make(chan struct{})
	var group sync.WaitGroup
	for i := range 3 {
		group.Add(1)
		go func() {
			defer group.Done()
			rnd := rand.New(rand.NewSource(int64(i)))
			for {
				select {
				case <-stop:
					return
				default:
				}
				d, ok := all.pick(rnd)
				if !ok {
					continue
				}
				u, _, err := l.Read(d.Position, nil)
				if errors.Is(err, ErrGone) {
					continue
				}
				if assert.NoError(t, err) {
					assert.Equal(t, d.Update, u)
				}
			}
		}()
	}
	for i := range 3000 {
		u := testUpdate(i)
		u.Payload = append(u.Payload, make([]byte, 60)...)
		p, end := write(t, l, Fresh, u)
		all.add(delivered{u, p})
		require.NoError(t, l.Throttle())
		if i%50 != 0 {
			continue
		}
		require.NoError(t, l.WaitDurable(Fresh, end))
		all.mu.Lock()
		if n := len(all.list); n > 200 {
			all.list = all.list[n-200:]
		}
		all.mu.Unlock()
		for _, s := range l.Segments() {
			if s.End != 0 && s.End < end-4096 && s.Stream == Fresh {
				require.NoError(t, l.Recycle(s.Base))
				require.ErrorIs(t, l.Recycle(s.Base), ErrGone)
			}
		}
	}
	close(stop)
	group.Wait()
	names, err := fs.ReadDir("d")
	require.NoError(t, err)
	require.Less(t, len(names), 20, "files pile up: %v", names)
	start := l.ReplayStart()
	require.NoError(t, l.Close())

	// From the start: the first segments are gone, which must not pass for an
	// empty log.
	l, err = Open(tiny(fs))
	require.NoError(t, err)
	_, err = l.Replay(Marks{}, func(Update, Position) error { return nil })
	require.ErrorIs(t, err, ErrCorrupt)
	require.NoError(t, l.Close())

	l, err = Open(tiny(fs))
	require.NoError(t, err)
	_, err = l.Replay(start, func(Update, Position) error { return nil })
	require.NoError(t, err)
	require.NoError(t, l.Start())
	require.NoError(t, l.Close())
}

// TestConcurrentWaiters shares syncs.
func TestConcurrentWaiters(t *testing.T) {
	l, _ := open(t, Options{Dir: t.TempDir(), Preallocate: true})
	var group sync.WaitGroup
	const writers, each = 32, 10
	for i := range writers {
		group.Add(1)
		go func() {
			defer group.Done()
			for j := range each {
				u := Update{PID: PID(i), Version: uint64(j), Kind: KindAppend, Payload: []byte(fmt.Sprint(i, j))}
				r, err := l.Reserve(Fresh, UpdateSize(u.PID, u.Version, len(u.Payload)))
				if assert.NoError(t, err) {
					r.Append(u)
					assert.NoError(t, l.WaitDurable(Fresh, r.Complete(1)))
				}
			}
		}()
	}
	group.Wait()
	m := l.Metrics()
	require.Less(t, m.Syncs, uint64(writers*each))
	require.EqualValues(t, writers*each, m.Records)
	require.NoError(t, l.Close())
}
