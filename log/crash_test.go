package log

import (
	"fmt"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
)

// A crashRecord is a record as the test wrote it.
type crashRecord struct {
	updates []delivered
	end     LSN
}

// A crashModel says what a log holds: of each stream, the records that count,
// in LSN order.
type crashModel struct {
	records [streams][]crashRecord
}

// a crashPoint is what a crash at some moment leaves, and what must be there.
type crashPoint struct {
	fs      *vfs.Mem
	model   crashModel
	durable [streams]LSN
	where   string
}

// A crashRun writes to a log at random and takes crash points at random file
// operations.
type crashRun struct {
	t      *testing.T
	rnd    *rand.Rand
	mem    *vfs.Mem
	log    *Log
	model  crashModel
	points []crashPoint
	next   int // numbers payloads
	odds   int
	dead   bool         // file operations are not to be looked at
	low    [streams]LSN // what was durable when the log was opened
	seed   int64
}

func (c *crashRun) inject(op vfs.Op) error {
	if c.dead || c.rnd.Intn(c.odds) != 0 {
		return nil
	}
	p := crashPoint{model: c.model, where: fmt.Sprintf("%v %s", op.Kind, op.Name)}
	if c.log != nil && c.log.started.Load() {
		for s := range p.durable {
			p.durable[s] = LSN(c.log.streams[s].durable.Load())
		}
	} else {
		p.durable = c.low
	}
	seed := c.rnd.Int63()
	if c.rnd.Intn(4) == 0 {
		seed = 0
	}
	p.fs = c.mem.CrashClone(seed)
	c.points = append(c.points, p)
	return nil
}

// floor is the end of all that the model holds: after a power loss all that
// was recovered is durable.
func (m crashModel) floor() (f [streams]LSN) {
	for s, records := range m.records {
		if n := len(records); n > 0 {
			f[s] = records[n-1].end
		}
	}
	return f
}

func (c *crashRun) payload() []byte {
	c.next++
	return []byte(fmt.Sprintf("%d-%d-%s", c.seed, c.next, make([]byte, c.rnd.Intn(100))))
}

func (c *crashRun) append(s Stream, updates []delivered, end LSN) {
	// A new slice, because crash points keep the old one.
	old := c.model.records[s]
	c.model.records[s] = append(old[:len(old):len(old)], crashRecord{updates, end})
}

func (c *crashRun) step() {
	s := Stream(c.rnd.Intn(8) / 7)
	switch k := c.rnd.Intn(20); {
	case k < 12:
		var us []Update
		n := 0
		for range 1 + c.rnd.Intn(3) {
			u := Update{PID: PID(c.rnd.Intn(5)), Version: uint64(c.next), Kind: KindReplace, Stamp: uint64(c.next), Payload: c.payload()}
			us = append(us, u)
			n += UpdateSize(u.PID, u.Version, len(u.Payload))
		}
		r, err := c.log.Reserve(s, n)
		require.NoError(c.t, err)
		var list []delivered
		for _, u := range us {
			u.Stamp = us[0].Stamp
			list = append(list, delivered{u, r.Append(u)})
		}
		if k == 0 {
			r.Abort()
			return
		}
		// Before Complete: from then on a flusher may write it.
		c.append(s, list, r.lsn+LSN(len(r.data)))
		r.Complete(us[0].Stamp)
	case k < 14:
		c.group(s)
	case k < 15:
		require.NoError(c.t, c.log.Sync())
	case k < 18:
		require.NoError(c.t, c.log.WaitDurable(s, c.log.Tail(s)))
	default:
		require.NoError(c.t, c.log.Throttle())
	}
}

func (c *crashRun) group(s Stream) {
	g := c.log.NewGroup(s)
	parts := 1 + c.rnd.Intn(5)
	var list []delivered
	var end LSN
	for i := range parts {
		last := i == parts-1
		if last && c.rnd.Intn(3) == 0 {
			g.Abandon()
			return
		}
		u := Update{PID: 99, Version: uint64(i), Kind: KindAppend, Stamp: 7, Payload: c.payload()}
		r, err := g.Reserve(UpdateSize(u.PID, u.Version, len(u.Payload)), last)
		require.NoError(c.t, err)
		list = append(list, delivered{u, r.Append(u)})
		if last {
			c.append(s, list, r.lsn+LSN(len(r.data)))
			r.Complete(7)
			return
		}
		end = r.Complete(0)
		if c.rnd.Intn(4) == 0 {
			require.NoError(c.t, c.log.WaitDurable(s, end))
		}
	}
}

// recover opens what a crash left and checks it: records whole, in order, a
// prefix of each stream, and all that was durable.
func recoverPoint(t *testing.T, p crashPoint) (fs *vfs.Mem, model crashModel, l *Log) {
	l, err := Open(tiny(p.fs))
	if err != nil {
		require.NoError(t, err, p.where)
	}
	var list []delivered
	_, err = l.Replay(Marks{}, collect(&list))
	require.NoError(t, err, p.where)
	byStream := [streams][]delivered{}
	for _, d := range list {
		s := l.segmentAt(d.Position.LSN).stream
		byStream[s] = append(byStream[s], d)
	}
	for s, got := range byStream {
		n := 0
		for _, r := range p.model.records[s] {
			if len(got) == 0 {
				require.Greater(t, r.end, p.durable[s], "durable record lost: %s", p.where)
				break
			}
			require.GreaterOrEqual(t, len(got), len(r.updates), p.where)
			require.Equal(t, r.updates, got[:len(r.updates)], p.where)
			got = got[len(r.updates):]
			n++
		}
		require.Empty(t, got, "more than was written: %s", p.where)
		model.records[s] = p.model.records[s][:n:n]
	}
	return p.fs, model, l
}

// TestCrash crashes at random file operations, of a log that went through
// crashes before (L1 to L4).
func TestCrash(t *testing.T) {
	runs := 150
	if testing.Short() {
		runs = 20
	}
	for seed := int64(1); seed <= int64(runs); seed++ {
		crashOnce(t, seed)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func crashOnce(t *testing.T, seed int64) {
	c := &crashRun{t: t, rnd: rand.New(rand.NewSource(seed)), mem: vfs.NewMem(), seed: seed}
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	for range 5 {
		c.points, c.dead, c.log = nil, false, nil
		c.odds = 1 + c.rnd.Intn(30)
		o := tiny(vfs.NewFault(c.mem, c.inject))
		l, err := Open(o)
		require.NoError(t, err)
		_, err = l.Replay(Marks{}, func(Update, Position) error { return nil })
		require.NoError(t, err)
		require.NoError(t, l.Start())
		// The flusher would draw from rnd beside this goroutine.
		close(l.quit)
		l.goroutines.Wait()
		l.quit = make(chan struct{})
		c.log = l
		steps := c.rnd.Intn(200)
		for i := range steps {
			c.step()
			if i%5 == 0 {
				l.writeSealed()
			}
		}
		if c.rnd.Intn(4) == 0 {
			require.NoError(t, l.Close())
		}
		c.dead = true
		if c.rnd.Intn(3) == 0 && !l.closed.Load() {
			// The process dies, and nothing is lost that was written.
			for s := range c.low {
				c.low[s] = LSN(l.streams[s].durable.Load())
			}
			require.NoError(t, l.lock.Close())
			_, model, r := recoverPoint(t, crashPoint{fs: c.mem, model: c.model, durable: c.low, where: "kill"})
			c.model = model
			require.NoError(t, r.lock.Close())
			continue
		}
		if len(c.points) == 0 {
			c.points = append(c.points, crashPoint{fs: c.mem.CrashClone(0), model: c.model, where: "end"})
		}
		chosen := c.rnd.Intn(len(c.points))
		for i, p := range c.points {
			fs, model, r := recoverPoint(t, p)
			if i == chosen {
				c.mem, c.model, c.low = fs, model, model.floor()
			} else if c.rnd.Intn(4) == 0 {
				require.NoError(t, r.Start())
			}
			require.NoError(t, r.Close())
		}
	}
}
