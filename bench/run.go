package main

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulkdb/db/internal/workload"
)

// A run is one workload in one store, in this process.
type run struct {
	spec    spec
	load    *load
	kind    kind
	engine  engine
	rows    *workload.Rows
	version atomic.Uint64
	streams uint64
	user    atomic.Int64 // bytes of keys and values written

	result result
}

// perform does what s says.
func perform(s spec) (result, error) {
	l, ok := loadOf(s.Workload)
	k, known := kindOf(s.Kind)
	if !ok || !known {
		return result{}, fmt.Errorf("no workload %q or no store %q", s.Workload, s.Kind)
	}
	r := &run{
		spec: s, load: l, kind: k,
		rows:   workload.NewRows(2*s.Keys, s.Value),
		result: result{Kind: s.Kind, Workload: s.Workload, Goroutines: s.Goroutines, Keys: s.Keys},
	}
	if l.transactions && !k.transactions || k.batches && !(l.sync && s.Goroutines > 1) {
		r.result.Unsupported = true
		return r.result, nil
	}
	if !l.fresh {
		for i := range s.Keys {
			r.rows.NoteSet(i)
		}
	}
	if err := l.run(r); err != nil {
		return result{}, err
	}
	return r.result, nil
}

func (r *run) dataBytes() int64 { return int64(r.spec.Keys) * r.rows.RowBytes() }

func (r *run) settings() settings {
	s := settings{
		dir: r.spec.Dir, sync: r.load.sync, together: r.kind.batches,
		cache: max(4*r.dataBytes(), 64<<20), counted: r.load.writes,
	}
	if r.load.cold {
		s.cache, s.cold = r.dataBytes()/4, true
	}
	return s
}

// opened opens the store, warms it, calls f and closes it.
func (r *run) opened(f func() error) (err error) {
	if r.engine, err = r.kind.open(r.settings()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.engine.close()) }()
	if r.load.cold {
		stop, err := startEvicting(r.spec.Dir)
		if err != nil {
			return err
		}
		defer stop()
	} else if !r.load.fresh {
		if err := r.warm(); err != nil {
			return fmt.Errorf("reading all rows before: %w", err)
		}
	}
	return f()
}

// warm reads every row once, or as many as ten seconds allow.
func (r *run) warm() error {
	start := time.Now()
	_, err := r.loop(2, r.spec.Keys, func(g *goroutine, op int) error {
		if op%1024 == 0 && time.Since(start) > 10*time.Second {
			return errEnough
		}
		return g.mustGet(op)
	}, nil)
	return err
}

// A goroutine is one of those of a loop.
type goroutine struct {
	*run
	worker  worker
	view    view // what get reads from: the worker, or a snapshot
	latency workload.Histogram

	key, value, expect []byte
	reading            int // the key that use is to find
	use                func(value []byte) error
	rowsSeen           int
}

func (r *run) goroutine() *goroutine {
	g := &goroutine{run: r, worker: r.engine.worker()}
	g.view = g.worker
	g.use = func(value []byte) error { return r.rows.Check(g.reading, value, &g.expect) }
	return g
}

// errEnough ends a loop without an error.
var errEnough = errors.New("enough")

const opsAtOnce = 64

// loop calls f for operations 0 to n-1 by so many goroutines, and returns how many
// were done. begin, if not nil, prepares each goroutine, and may return what is to
// be called in the end.
func (r *run) loop(goroutines, n int, f func(g *goroutine, op int) error, begin func(g *goroutine) (func() error, error)) (done int, err error) {
	var (
		next, count atomic.Int64
		all         sync.WaitGroup
		mu          sync.Mutex
		total       workload.Histogram
		fail        error
	)
	end := func(g *goroutine, e error) {
		mu.Lock()
		defer mu.Unlock()
		total.Add(&g.latency)
		if e != nil && fail == nil {
			fail = e
		}
		if e != nil {
			next.Store(int64(n))
		}
	}
	at := int64(opsAtOnce)
	if r.load.slow {
		at = 1
	}
	for range goroutines {
		all.Go(func() {
			g := r.goroutine()
			finish, e := func() error { return nil }, error(nil)
			if begin != nil {
				finish, e = begin(g)
			}
			for e == nil {
				from := next.Add(at) - at
				if from >= int64(n) {
					break
				}
				op := from
				for ; op < min(from+at, int64(n)) && e == nil; op++ {
					e = g.timed(int(op), f)
				}
				if count.Add(op - from); e != nil {
					count.Add(-1)
				}
			}
			if finish != nil {
				if err := finish(); err != nil && (e == nil || errors.Is(e, errEnough)) {
					e = err
				}
			}
			end(g, e)
		})
	}
	all.Wait()
	if errors.Is(fail, errEnough) {
		fail = nil
	}
	r.result.P50, r.result.P99, r.result.P999 = total.Quantile(.5), total.Quantile(.99), total.Quantile(.999)
	return int(count.Load()), fail
}

// timed calls f and records how long that took, or does not, since two looks at
// the clock cost a tenth of a fast read.
func (g *goroutine) timed(op int, f func(g *goroutine, op int) error) error {
	if op%16 != 0 && !g.load.slow {
		return f(g, op)
	}
	start := time.Now()
	err := f(g, op)
	g.latency.Record(time.Since(start))
	return err
}

// measure runs a loop of at most n operations and fills in the result. It ends
// early after so many seconds.
func (r *run) measure(n int, seconds float64, f func(g *goroutine, op int) error, begin func(g *goroutine) (func() error, error)) error {
	r.streams++
	runtime.GC()
	workload.ResetPeak()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu, written := cpuTime(), r.written()
	r.user.Store(0)

	stop, err := startProfiles(r.spec)
	if err != nil {
		return err
	}
	long := time.Duration(seconds * float64(time.Second))
	look := opsAtOnce
	if r.load.slow {
		look = 1
	}
	start := time.Now()
	ops, err := r.loop(r.spec.Goroutines, n, func(g *goroutine, op int) error {
		if op%look == 0 && time.Since(start) > long {
			return errEnough
		}
		return f(g, op)
	}, begin)
	took := time.Since(start)
	if err := errors.Join(err, stop()); err != nil {
		return err
	}
	x := &r.result
	x.Ops, x.Seconds, x.Cut = ops, took.Seconds(), ops < n && r.load.whole
	x.Rate = float64(ops) / x.Seconds
	runtime.ReadMemStats(&after)
	x.Allocs = float64(after.Mallocs-before.Mallocs) / float64(max(ops, 1))
	x.AllocBytes = float64(after.TotalAlloc-before.TotalAlloc) / float64(max(ops, 1))
	x.CPU = (cpuTime() - cpu) / time.Duration(max(ops, 1))
	x.PeakRSS = workload.PeakBytes()
	if r.load.writes {
		r.rest()
		x.Written = float64(r.written()-written) / float64(max(r.user.Load(), 1))
		space, err := workload.DiskBytes(r.spec.Dir)
		if err != nil {
			return err
		}
		if live := r.rows.Live(); live > 0 {
			x.Space = float64(space) / float64(live)
		}
	}
	return nil
}

// rest waits until nothing has been written for half a second, or for as long as a
// workload runs if that is less. It gives up after 20 seconds.
func (r *run) rest() {
	quiet := min(10, 1+int(r.spec.Seconds/0.05))
	last, same := r.written(), 0
	for tries := 0; same < quiet && tries < 400; tries++ {
		time.Sleep(50 * time.Millisecond)
		now := r.written()
		if same++; now != last {
			last, same = now, 0
		}
	}
}

// written returns what was written to files so far.
func (r *run) written() int64 {
	sum := workload.WrittenBytes()
	if m, ok := r.engine.(mapper); ok {
		sum += m.mappedBytes()
	}
	return sum
}

// random returns a function of i whose results look random, other ones for each
// measurement.
func (r *run) random(i int) uint64 {
	return workload.Mix(workload.Mix(r.spec.Seed<<32+r.streams) + uint64(i)*0x9e3779b97f4a7c15)
}

func (g *goroutine) set(i int) error {
	g.key = workload.AppendKey(g.key[:0], i)
	return g.setKey(i)
}

func (g *goroutine) setKey(i int) error {
	g.value = g.rows.AppendValue(g.value[:0], i, g.version.Add(1))
	if err := g.worker.set(g.key, g.value); err != nil {
		return err
	}
	g.wrote(i)
	return nil
}

func (g *goroutine) wrote(i int) {
	g.user.Add(g.rows.RowBytes())
	g.rows.NoteSet(i)
}

// get reads key i and checks its value.
func (g *goroutine) get(i int) (found bool, err error) {
	g.key = workload.AppendKey(g.key[:0], i)
	g.reading = i
	return g.view.get(g.key, g.use)
}

// mustGet is get of a key that is there.
func (g *goroutine) mustGet(i int) error {
	found, err := g.get(i)
	if err == nil && !found {
		err = fmt.Errorf("key %d is not there", i)
	}
	return err
}

// scan reads up to n rows from key i on, and checks them and their order.
func (g *goroutine) scan(from []byte, backwards bool, n int) error {
	var last []byte
	return g.view.scan(from, backwards, n, func(key, value []byte) error {
		if last != nil && (string(last) < string(key)) == backwards {
			return fmt.Errorf("key %x comes after %x", key, last)
		}
		last = append(last[:0], key...)
		g.rowsSeen++
		return g.rows.Check(workload.KeyIndex(key), value, &g.expect)
	})
}
