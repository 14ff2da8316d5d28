package main

import (
	"fmt"
	"time"

	"github.com/pulkdb/db/internal/workload"
)

// coldReads are Gets that had to wait for a page, and the reads from files that
// took.
type coldReads struct {
	gets, reads uint64
	took        time.Duration
}

func (c coldReads) perGet() string { return ratio(float64(c.reads), float64(c.gets)) }

func (c coldReads) mean() time.Duration {
	if c.gets == 0 {
		return 0
	}
	return c.took / time.Duration(c.gets)
}

// readCold reads n random keys that are present twice, in the same order.
func (s *store) readCold(n int) (first, again coldReads, err error) {
	if s.rows.Count() == 0 {
		return first, again, nil
	}
	x := s.random()
	keys := make([]int, 0, n)
	for draw := 0; len(keys) < n; draw++ {
		if i := workload.Below(x(draw), s.rows.Keys); s.rows.Has(i) {
			keys = append(keys, i)
		}
	}
	w := &worker{s: s}
	missed := make([]bool, n)
	for at, i := range keys {
		if missed[at], err = w.getCold(i, &first); err != nil {
			return first, again, err
		}
	}
	for at, i := range keys {
		counted := &again
		if !missed[at] {
			counted = &coldReads{}
		}
		if _, err = w.getCold(i, counted); err != nil {
			return first, again, err
		}
	}
	return first, again, nil
}

// getCold reads key i and counts what it cost in c if it had to wait for a page,
// which it reports. Nobody else is to read.
func (w *worker) getCold(i int, c *coldReads) (missed bool, err error) {
	before := w.s.db.Metrics()
	start := time.Now()
	if err := w.get(i); err != nil {
		return false, fmt.Errorf("cold read: %w", err)
	}
	took := time.Since(start)
	after := w.s.db.Metrics()
	if after.Pages.Misses == before.Pages.Misses {
		return false, nil
	}
	c.gets++
	c.reads += after.Disk.Reads - before.Disk.Reads
	c.took += took
	return true, nil
}
