package main

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// A progress shows how much of some work is done: as a bar that moves on a
// terminal, and else as a line now and then.
type progress struct {
	total    int
	done     atomic.Int64
	begun    time.Time
	terminal bool
	finish   chan struct{}
	finished chan struct{}
}

func startProgress(total int) *progress {
	p := &progress{
		total:    total,
		begun:    time.Now(),
		finish:   make(chan struct{}),
		finished: make(chan struct{}),
	}
	if info, err := os.Stdout.Stat(); err == nil {
		p.terminal = info.Mode()&os.ModeCharDevice != 0
	}
	go p.run()
	return p
}

// step says that one more piece of the work is done.
func (p *progress) step() { p.done.Add(1) }

// stop shows the last state and ends.
func (p *progress) stop() {
	close(p.finish)
	<-p.finished
}

func (p *progress) run() {
	defer close(p.finished)
	every := 2 * time.Second
	if p.terminal {
		every = 100 * time.Millisecond
	}
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
			p.show()
		case <-p.finish:
			p.show()
			if p.terminal {
				fmt.Println()
			}
			return
		}
	}
}

func (p *progress) show() {
	done, seconds := int(p.done.Load()), time.Since(p.begun).Seconds()
	if !p.terminal {
		fmt.Printf("%d of %d files, %.1f s\n", done, p.total, seconds)
		return
	}
	const width = 40
	filled := width * done / max(p.total, 1)
	fmt.Printf("\r[%s%s] %d of %d files, %.1f s ",
		strings.Repeat("#", filled), strings.Repeat(".", width-filled), done, p.total, seconds)
}
