package main

import (
	"fmt"
	"time"

	"github.com/pulkdb/db/internal/workload"
)

// A cycle is what a store looked like when it was full, and when it was empty
// again.
type cycle struct {
	fill                  time.Duration
	fullPages, emptyPages uint64
	fullSpace, emptySpace int64
	fullScan, emptyScan   time.Duration
}

// cycles fills a store and deletes everything again, time after time.
func cycles(c config) error {
	s, err := openStore(c)
	if err != nil {
		return err
	}
	var all []cycle
	t := newTable("", "fill s", "pages full", "empty", "space full MiB", "empty", "scan full ms", "empty")
	for n := range c.cycles {
		x, err := s.cycle()
		if err != nil {
			return fmt.Errorf("cycle %d: %w", n+1, err)
		}
		all = append(all, x)
		t.row(n+1, fmt.Sprintf("%.1f", x.fill.Seconds()), x.fullPages, x.emptyPages, mib(x.fullSpace), mib(x.emptySpace), ms(x.fullScan), ms(x.emptyScan))
	}
	first, last := all[0], all[len(all)-1]
	t.row("last/first", ratio(float64(last.fill), float64(first.fill)), ratio(float64(last.fullPages), float64(first.fullPages)), ratio(float64(last.emptyPages), float64(first.emptyPages)),
		ratio(float64(last.fullSpace), float64(first.fullSpace)), ratio(float64(last.emptySpace), float64(first.emptySpace)),
		ratio(float64(last.fullScan), float64(first.fullScan)), ratio(float64(last.emptyScan), float64(first.emptyScan)))
	t.print()
	return s.db.Close()
}

func (s *store) cycle() (x cycle, err error) {
	start := time.Now()
	if _, err := s.fill(); err != nil {
		return x, err
	}
	x.fill = time.Since(start)
	if x.fullPages, x.fullSpace, x.fullScan, err = s.look(); err != nil {
		return x, err
	}
	if _, err := s.parallel(s.rows.Keys, (*worker).delete); err != nil {
		return x, err
	}
	x.emptyPages, x.emptySpace, x.emptyScan, err = s.look()
	return x, err
}

// rest waits until the store has done nothing of its own for so long as settle says: it
// merges, splits and joins pages, and cleans, when nobody uses it. After two minutes it
// takes it as it is.
func (s *store) rest() {
	type work struct {
		written uint64
		pages   uint64
		reads   uint64
	}
	last, quiet := work{}, time.Duration(0)
	const poll = 250 * time.Millisecond
	for end := time.Now().Add(2 * time.Minute); quiet < s.config.settle && time.Now().Before(end); {
		time.Sleep(poll)
		m := s.db.Metrics()
		now := work{written(m), m.Pages.Pages, m.Pages.GatherReads}
		if quiet += poll; now != last {
			last, quiet = now, 0
		}
	}
}

// look waits for the store to come to rest and measures it.
func (s *store) look() (pages uint64, space int64, scan time.Duration, err error) {
	if err := s.db.Sync(); err != nil {
		return 0, 0, 0, err
	}
	s.rest()
	if space, err = workload.DiskBytes(s.config.dir); err != nil {
		return 0, 0, 0, err
	}
	pages = s.db.Metrics().Pages.Pages
	scan, err = s.fullScan()
	return pages, space, scan, err
}
