package main

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/pulkdb/db/internal/workload"
)

// runLoadSequential sets keys in ascending order.
func runLoadSequential(r *run) error {
	return r.opened(func() error {
		return r.measure(r.spec.Keys, r.seconds(), func(g *goroutine, op int) error {
			g.key = binary.BigEndian.AppendUint64(g.key[:0], uint64(op))
			g.key = binary.BigEndian.AppendUint64(g.key, workload.Mix(uint64(op)))
			return g.setKey(op)
		}, nil)
	})
}

// runLoadRandom sets keys in random order.
func runLoadRandom(r *run) error {
	return r.opened(func() error {
		return r.measure(r.spec.Keys, r.seconds(), (*goroutine).set, nil)
	})
}

// runOverwrite sets random keys, twice as many as there are.
func runOverwrite(r *run) error {
	return r.opened(func() error {
		key := hit(r)
		return r.measure(2*r.spec.Keys, r.seconds(), func(g *goroutine, op int) error { return g.set(key(op)) }, nil)
	})
}

// runSets sets random keys for a while.
func runSets(r *run) error {
	return r.opened(func() error {
		key := hit(r)
		return r.measure(forEver, r.seconds(), func(g *goroutine, op int) error { return g.set(key(op)) }, nil)
	})
}

const batchRows = 1000

// runBatches sets random keys in atomic batches. An operation is a row.
func runBatches(r *run) error {
	return r.opened(func() error {
		key := hit(r)
		err := r.measure(forEver, r.seconds(), func(g *goroutine, op int) error {
			return g.batch(batchRows, func(i int) int { return key(op*batchRows + i) })
		}, nil)
		r.result.perRow(r.result.Ops * batchRows)
		return err
	})
}

// batch writes n rows at once; index says of which keys.
func (g *goroutine) batch(n int, index func(i int) int) error {
	err := g.worker.batch(n, func(i int) (key, value []byte) {
		g.key = workload.AppendKey(g.key[:0], index(i))
		g.value = g.rows.AppendValue(g.value[:0], index(i), g.version.Add(1))
		return g.key, g.value
	})
	if err != nil {
		return err
	}
	for i := range n {
		g.wrote(index(i))
	}
	return nil
}

// runDeletes deletes keys in random order while there are any.
func runDeletes(r *run) error {
	return r.opened(func() error {
		return r.measure(r.spec.Keys, r.seconds(), func(g *goroutine, op int) error {
			g.key = workload.AppendKey(g.key[:0], op)
			if err := g.worker.delete(g.key); err != nil {
				return err
			}
			g.user.Add(workload.KeyBytes)
			g.rows.NoteDelete(op)
			return nil
		}, nil)
	})
}

// A mix is one of the core workloads of YCSB (Cooper et al., "Benchmarking Cloud
// Serving Systems with YCSB", SoCC 2010), with keys drawn by Zipf's law: shares of
// operations in percent.
type mix struct{ read, update, scan, insert, modify int }

var (
	mixA = mix{read: 50, update: 50}
	mixB = mix{read: 95, update: 5}
	mixE = mix{scan: 95, insert: 5}
	mixF = mix{read: 50, modify: 50}
)

func ycsb(m mix) func(r *run) error {
	return func(r *run) error {
		return r.opened(func() error {
			key := zipf(r)
			return r.measure(forEver, r.seconds(), func(g *goroutine, op int) error {
				return g.ycsb(m, op, key(op))
			}, nil)
		})
	}
}

// ycsb does one operation of m, on key i, or, to insert, on a key that is new.
func (g *goroutine) ycsb(m mix, op, i int) error {
	x := g.random(-op - 1)
	percent := workload.Below(x, 100)
	if percent -= m.read; percent < 0 {
		return g.mustGet(i)
	}
	if percent -= m.update; percent < 0 {
		return g.set(i)
	}
	if percent -= m.scan; percent < 0 {
		g.key = workload.AppendKey(g.key[:0], i)
		return g.scan(g.key, false, 1+workload.Below(x>>32, 100))
	}
	if percent -= m.insert; percent < 0 {
		return g.set(g.spec.Keys + op%g.spec.Keys)
	}
	if err := g.mustGet(i); err != nil {
		return err
	}
	return g.set(i)
}

// runTransactions reads four random keys and writes two of them, atomically.
func runTransactions(r *run) error {
	return r.opened(func() error {
		key := hit(r)
		return r.measure(forEver, r.seconds(), func(g *goroutine, op int) error {
			err := g.worker.update(func(tx transaction) error {
				for i := range 4 {
					g.reading = key(4*op + i)
					g.key = workload.AppendKey(g.key[:0], g.reading)
					if found, err := tx.get(g.key, g.use); err != nil || !found {
						return fmt.Errorf("key %d: found: %v, %w", g.reading, found, err)
					}
				}
				for i := range 2 {
					g.key = workload.AppendKey(g.key[:0], key(4*op+i))
					g.value = g.rows.AppendValue(g.value[:0], key(4*op+i), g.version.Add(1))
					if err := tx.set(g.key, g.value); err != nil {
						return err
					}
				}
				return nil
			})
			if err == nil {
				g.wrote(key(4 * op))
				g.wrote(key(4*op + 1))
			}
			return err
		}, nil)
	})
}

// runScanDuringSets reads all rows while another goroutine sets random keys as fast
// as it can.
func runScanDuringSets(r *run) error {
	return r.opened(func() error {
		var (
			done sync.WaitGroup
			stop = make(chan struct{})
			sets int
			fail error
		)
		key := hit(r)
		start := time.Now()
		done.Go(func() {
			for g := r.goroutine(); fail == nil; sets++ {
				select {
				case <-stop:
					return
				default:
					fail = g.set(key(sets))
				}
			}
		})
		err := runRows(r)
		close(stop)
		done.Wait()
		r.result.Extra = fmt.Sprintf("%.0f sets/s", float64(sets)/time.Since(start).Seconds())
		r.result.Written = 0
		if err == nil {
			err = fail
		}
		return err
	})
}
