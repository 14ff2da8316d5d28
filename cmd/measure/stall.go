package main

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulkdb/db/internal/workload"
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
	during := make([]workload.Histogram, c.writers)
	start := time.Now()
	draw := s.uniform()
	without, err := s.parallel(1<<40, func(w *worker, op int) error {
		if op%opsAtOnce == 0 && time.Since(start) > c.duration {
			return errEnough
		}
		met := snapshot.Load()
		took, err := w.put(draw(op))
		if met || snapshot.Load() {
			during[w.index].Record(took)
		} else {
			w.latency.Record(took)
		}
		return err
	})
	stop()
	if err != nil {
		return err
	}
	with := &workload.Histogram{}
	for i := range during {
		with.Add(&during[i])
	}
	after := s.db.Metrics().Pages
	t := newTable("", "Sets", "p50", "p99", "p99.9", "max", "snapshots")
	t.row("during a snapshot", with.Count, short(with.Quantile(.5)), short(with.Quantile(.99)), short(with.Quantile(.999)), short(with.Max),
		after.Snapshots-before.Snapshots)
	t.row("without", without.Count, short(without.Quantile(.5)), short(without.Quantile(.99)), short(without.Quantile(.999)), short(without.Max), "")
	t.row("ratio", "", ratio(float64(with.Quantile(.5)), float64(without.Quantile(.5))), ratio(float64(with.Quantile(.99)), float64(without.Quantile(.99))),
		ratio(float64(with.Quantile(.999)), float64(without.Quantile(.999))), ratio(float64(with.Max), float64(without.Max)), "")
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
