package console

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestConsole(t *testing.T) {
	var screen, serial bytes.Buffer
	var c Console
	c.Add(Screen, &screen)
	c.Add(Serial, &serial)
	c.Line("[03] stick … ok 0.1 s")
	c.Log("crawl \x1b[2Jstarted")
	c.Log("one \u009b2J two \x9b2J\nALARM: false\r\n")
	c.Show("status\n")
	c.Close()
	if want := "[03] stick ... ok 0.1 s\n\x1b[2J\x1b[Hstatus\n"; screen.String() != want {
		t.Errorf("screen: got %q, want %q", screen.String(), want)
	}
	if want := "[03] stick … ok 0.1 s\ncrawl ?[2Jstarted\none ?2J two \ufffd2J?ALARM: false??\nstatus\n"; serial.String() != want {
		t.Errorf("serial: got %q, want %q", serial.String(), want)
	}
}

// gate is a console whose other end holds it up until it is opened.
type gate struct {
	open chan struct{}
	got  bytes.Buffer
}

func (g *gate) Write(b []byte) (int, error) {
	<-g.open
	return g.got.Write(b)
}

// slow is a console that takes its time.
type slow struct{ got bytes.Buffer }

func (s *slow) Write(b []byte) (int, error) {
	time.Sleep(time.Second)
	return s.got.Write(b)
}

func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{}
		var c Console
		c.Add(Serial, s)
		c.Line("a")
		c.Line("b")
		c.Flush(time.Minute)
		if got := s.got.String(); got != "a\nb\n" {
			t.Errorf("after Flush %q is out", got)
		}
		c.Line("c")
		start := time.Now()
		c.Flush(500 * time.Millisecond)
		if d := time.Since(start); d > 600*time.Millisecond {
			t.Errorf("Flush of half a second took %v", d)
		}
		c.Close()
	})
}

func TestSlowConsole(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	var c Console
	c.Add(Serial, g)
	for range queue + 100 { // one more may be in the goroutine's hand
		c.Line("x")
	}
	close(g.open)
	for len(c.outs[0].lines) > 0 {
		c.Flush(1e9)
	}
	c.Line("y")
	c.Close()
	got := g.got.String()
	if !strings.Contains(got, "lines left out: the console is slow)\ny\n") {
		t.Errorf("got …%q", got[len(got)-100:])
	}
}
