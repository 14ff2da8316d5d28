package main

import (
	"sync"
	"sync/atomic"
	"time"
)

// stall loads a store, overwrites random keys, and tells Sets that met a
// page-table snapshot being written from those that met none.
func stall(c config) error {
	s, err := openStore(c)
	if err != nil {
		return err
	}
	if _, err := s.fill(); err != nil {
		return err
	}
	before := s.db.Metrics().Pages
	snapshot, stop := s.followSnapshots()
	during := make([]histogram, c.writers)
	start := time.Now()
	draw := s.uniform()
	without, err := s.parallel(1<<40, func(w *worker, op int) error {
		if op%opsAtOnce == 0 && time.Since(start) > c.duration {
			return errEnough
		}
		met := snapshot.Load()
		took, err := w.put(draw(op))
		if met || snapshot.Load() {
			during[w.index].record(took)
		} else {
			w.latency.record(took)
		}
		return err
	})
	stop()
	if err != nil {
		return err
	}
	with := &histogram{}
	for i := range during {
		with.add(&during[i])
	}
	after := s.db.Metrics().Pages
	t := newTable("", "Sets", "p50", "p99", "p99.9", "max", "snapshots")
	t.row("during a snapshot", with.count, short(with.quantile(.5)), short(with.quantile(.99)), short(with.quantile(.999)), short(with.max),
		after.Snapshots-before.Snapshots)
	t.row("without", without.count, short(without.quantile(.5)), short(without.quantile(.99)), short(without.quantile(.999)), short(without.max), "")
	t.row("ratio", "", ratio(float64(with.quantile(.5)), float64(without.quantile(.5))), ratio(float64(with.quantile(.99)), float64(without.quantile(.99))),
		ratio(float64(with.quantile(.999)), float64(without.quantile(.999))), ratio(float64(with.max), float64(without.max)), "")
	t.print()
	return s.db.Close()
}

// followSnapshots keeps a flag that says, a millisecond late at most, whether a
// page-table snapshot is being written.
func (s *store) followSnapshots() (snapshot *atomic.Bool, stop func()) {
	snapshot = new(atomic.Bool)
	ended := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				snapshot.Store(s.db.Metrics().Pages.Snapshotting)
			}
		}
	})
	return snapshot, func() { close(ended); done.Wait() }
}
