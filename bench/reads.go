package main

import (
	"fmt"
	"time"

	"github.com/pulkdb/db/internal/workload"
)

// inSnapshot makes a goroutine read from a snapshot of its own.
func inSnapshot(g *goroutine) (func() error, error) {
	s, err := g.worker.snapshot()
	if err != nil {
		return nil, err
	}
	g.view = s
	return s.close, nil
}

// gets returns a workload that reads keys one by one, in a snapshot or not.
func gets(snapshot bool, d draw) func(r *run) error {
	return func(r *run) error {
		var begin func(g *goroutine) (func() error, error)
		if snapshot {
			begin = inSnapshot
		}
		return r.opened(func() error {
			key := d(r)
			return r.measure(forEver, r.seconds(), func(g *goroutine, op int) error {
				i := key(op)
				found, err := g.get(i)
				if err == nil && found != (i < r.spec.Keys) {
					err = fmt.Errorf("key %d: found: %v", i, found)
				}
				return err
			}, begin)
		})
	}
}

// seeks returns a workload that reads 100 rows from a random key on.
func seeks(backwards bool) func(r *run) error {
	return func(r *run) error {
		return r.opened(func() error {
			key := hit(r)
			return r.measure(forEver, r.seconds(), func(g *goroutine, op int) error {
				g.key = workload.AppendKey(g.key[:0], key(op))
				return g.scan(g.key, backwards, 100)
			}, nil)
		})
	}
}

// runScan reads all rows in order, again and again. An operation is a row.
func runScan(r *run) error { return r.opened(func() error { return runRows(r) }) }

// runRows reads all rows of a store that is open, as runScan does.
func runRows(r *run) error {
	rows := 0
	err := r.measure(forEver, r.seconds(), func(g *goroutine, _ int) error {
		g.rowsSeen = 0
		if err := g.scan(nil, false, forEver); err != nil {
			return err
		}
		if g.rowsSeen != r.spec.Keys {
			return fmt.Errorf("a scan has seen %d rows", g.rowsSeen)
		}
		rows += g.rowsSeen
		return nil
	}, nil)
	r.result.perRow(rows)
	return err
}

// perRow makes rows the operations of x, but for the latencies.
func (x *result) perRow(rows int) {
	scale := float64(max(x.Ops, 1)) / float64(max(rows, 1))
	x.Ops, x.Rate = rows, float64(rows)/x.Seconds
	x.Allocs, x.AllocBytes = x.Allocs*scale, x.AllocBytes*scale
	x.CPU = time.Duration(float64(x.CPU) * scale)
}
