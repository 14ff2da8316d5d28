package log

import (
	"bytes"
	"fmt"
	"math/rand"
	"testing"

	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/vfs"
)

// A crashStore is a log whose steps are records and groups in both streams. What
// survives is a prefix of each stream.
type crashStore struct {
	log   *Log
	found [streams][]delivered // what Replay delivered and what was written since
}

func crashOptions(fs vfs.FS) Options {
	return Options{Dir: "d", FS: fs, SegmentBytes: 2048, BufferBytes: 512, Buffers: 4}
}

func openCrashStore(fs vfs.FS) (crashtest.Store, error) {
	l, err := Open(crashOptions(fs))
	if err != nil {
		return nil, err
	}
	c := &crashStore{log: l}
	var list []delivered
	_, err = l.Replay(Marks{}, collect(&list))
	for _, d := range list {
		s := l.StreamOf(d.Position.LSN)
		c.found[s] = append(c.found[s], d)
	}
	if err == nil {
		err = l.Start()
	}
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return c, nil
}

// plannedStep is what a step does.
type plannedStep struct {
	stream  Stream
	updates []Update
	group   bool
	abort   bool
	durable bool
}

func planStep(s crashtest.Step) plannedStep {
	rnd := rand.New(rand.NewSource(int64(s.Seed)))
	p := plannedStep{stream: Stream(rnd.Intn(4) / 3), group: rnd.Intn(6) == 0, abort: rnd.Intn(12) == 0, durable: rnd.Intn(3) == 0}
	for part := range 1 + rnd.Intn(4) {
		payload := make([]byte, rnd.Intn(90))
		rnd.Read(payload)
		p.updates = append(p.updates, Update{PID: PID(rnd.Intn(9)), Version: s.Seed<<3 | uint64(part), Stamp: 7, Kind: KindAppend, Payload: payload})
	}
	return p
}

func (c *crashStore) Step(steps []crashtest.Step) (func(crashtest.Step) bool, error) {
	p := planStep(steps[len(steps)-1])
	if err := c.log.Throttle(); err != nil {
		return nil, err
	}
	end, err := c.write(p)
	if err != nil {
		return nil, err
	}
	if !p.durable {
		return nil, nil
	}
	if err := c.log.WaitDurable(p.stream, end); err != nil {
		return nil, err
	}
	return func(s crashtest.Step) bool { return planStep(s).stream == p.stream }, nil
}

func (c *crashStore) write(p plannedStep) (end LSN, err error) {
	var list []delivered
	defer func() {
		if err == nil && !p.abort {
			c.found[p.stream] = append(c.found[p.stream], list...)
		}
	}()
	if p.group {
		g := c.log.NewGroup(p.stream)
		for i, u := range p.updates {
			last := i == len(p.updates)-1
			if last && p.abort {
				g.Abandon()
				return c.log.Tail(p.stream), nil
			}
			r, err := g.Reserve(UpdateSize(u.PID, u.Version, len(u.Payload)), last)
			if err != nil {
				return 0, err
			}
			list = append(list, delivered{u, r.Append(u)})
			stamp := uint64(0)
			if last {
				stamp = 7
			}
			end = r.Complete(stamp)
		}
		return end, nil
	}
	n := 0
	for _, u := range p.updates {
		n += UpdateSize(u.PID, u.Version, len(u.Payload))
	}
	r, err := c.log.Reserve(p.stream, n)
	if err != nil {
		return 0, err
	}
	for _, u := range p.updates {
		list = append(list, delivered{u, r.Append(u)})
	}
	if p.abort {
		r.Abort()
		return c.log.Tail(p.stream), nil
	}
	return r.Complete(7), nil
}

// Find reads every update, also of those that are in memory still.
func (c *crashStore) Find(steps []crashtest.Step) ([]crashtest.Step, error) {
	var found []crashtest.Step
	rest := c.found
	for _, s := range steps {
		p := planStep(s)
		switch {
		case p.abort:
		case len(rest[p.stream]) == 0:
			if s.Durable {
				return nil, fmt.Errorf("step %d is lost (%v stream)", s.Number, p.stream)
			}
			continue
		case len(rest[p.stream]) < len(p.updates):
			return nil, fmt.Errorf("step %d is there in part", s.Number)
		default:
			for i, want := range p.updates {
				got, _, err := c.log.Read(rest[p.stream][i].Position, nil)
				if err != nil {
					return nil, fmt.Errorf("step %d: %w", s.Number, err)
				}
				if p.group && i < len(p.updates)-1 {
					got.Stamp = want.Stamp // it is with the last part
				}
				if got.Version != want.Version || got.PID != want.PID || got.Stamp != want.Stamp || !bytes.Equal(got.Payload, want.Payload) {
					return nil, fmt.Errorf("step %d: got %v, want %v", s.Number, got, want)
				}
			}
			rest[p.stream] = rest[p.stream][len(p.updates):]
		}
		found = append(found, s)
	}
	for s, list := range rest {
		if len(list) > 0 {
			return nil, fmt.Errorf("%d updates of the %v stream that were never written: %v", len(list), Stream(s), list[0].Update)
		}
	}
	return found, nil
}

func (c *crashStore) Close() error { return c.log.Close() }

var crashLayer = crashtest.Layer{Name: "log", Open: openCrashStore, Failed: ErrFailed}

// TestPowerLoss loses power at every file operation that changes something, in
// recovery too (L1 to L4).
func TestPowerLoss(t *testing.T) {
	result, err := crashtest.Power{Seed: crashtest.Seed(t), Points: crashtest.Points(4000), Steps: 80}.Run(crashLayer)
	crashtest.Report(t, "log", result, err)
}

// TestEveryFault fails every file operation, in every way (L5).
func TestEveryFault(t *testing.T) {
	result, err := crashtest.Faults{Seed: crashtest.Seed(t)}.Run(crashLayer)
	crashtest.Report(t, "log", result, err)
}
