package main

import (
	"fmt"
	"sync"
	"time"
)

// scanHits reads keys by Zipf's law, alone and beside full scans, and tells how
// many Gets had their pages in memory.
func scanHits(c config) error {
	s, err := openStore(c)
	if err != nil {
		return err
	}
	if _, err := s.fill(); err != nil {
		return err
	}
	t := newTable("", "hit rate", "Gets/s", "scans", "rows/s scanned")
	if _, err := s.readSkewed(c.duration); err != nil { // warms the cache
		return err
	}
	for _, scanning := range []bool{false, true, false} {
		what, stop := "alone", func() (int, error) { return 0, nil }
		if scanning {
			what, stop = "beside scans", s.scanUntil()
		}
		hits, err := s.readSkewed(c.duration)
		rows, scanErr := stop()
		if err != nil || scanErr != nil {
			return fmt.Errorf("read: %v, scan: %v", err, scanErr)
		}
		t.row(what, fmt.Sprintf("%.3f", hits.rate), fmt.Sprintf("%.0f", hits.perSecond),
			ratio(float64(rows), float64(s.rows.Keys)), fmt.Sprintf("%.0f", float64(rows)/c.duration.Seconds()))
	}
	t.print()
	return s.db.Close()
}

type hits struct{ rate, perSecond float64 }

// readSkewed reads keys for a while.
func (s *store) readSkewed(long time.Duration) (hits, error) {
	before := s.db.Metrics()
	start := time.Now()
	draw := s.skewed()
	_, err := s.parallel(1<<40, func(w *worker, op int) error {
		if op%opsAtOnce == 0 && time.Since(start) > long {
			return errEnough
		}
		return w.get(draw(op))
	})
	after := s.db.Metrics()
	gets := float64(after.Get.Count - before.Get.Count)
	return hits{1 - float64(after.Pages.Misses-before.Pages.Misses)/gets, gets / time.Since(start).Seconds()}, err
}

// scanUntil scans the store again and again, until stop is called, which returns
// the number of rows scanned.
func (s *store) scanUntil() (stop func() (rows int, err error)) {
	var (
		done  sync.WaitGroup
		ended = make(chan struct{})
		rows  int
		fail  error
	)
	done.Go(func() {
		for {
			it := s.db.Scan(nil, nil)
			for it.Next() {
				if rows++; rows%1024 != 0 {
					continue
				}
				select {
				case <-ended:
					it.Close()
					return
				default:
				}
			}
			fail = it.Err()
			it.Close()
			if fail != nil {
				return
			}
		}
	})
	return func() (int, error) {
		close(ended)
		done.Wait()
		return rows, fail
	}
}
