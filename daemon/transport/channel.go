package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"armarium/daemon/lcap"
	"armarium/daemon/lockss"
)

// A channel is one connection. The fields of the second part are guarded by Transport.mu.
type channel struct {
	t      *Transport
	called lockss.PeerID  // whom we connect to; "" if it was the other who connected
	to     netip.AddrPort // where
	from   netip.Prefix   // network of the caller
	remote string         // for the log
	conn   net.Conn       // nil until connected; set before reader and writer start
	wake   chan struct{}  // the queue, or the state, has changed
	active atomic.Int64   // last traffic, after Transport.epoch
	drains atomic.Bool    // our output is shut down

	peer         *peer // nil until introduced
	unintroduced bool  // counted among them
	introduced   bool  // PEERID was read
	queue        []*outgoing
	eof          bool  // the other's output has ended
	err          error // why the channel is of no more use
}

// Faults of an introduction.
var (
	errNotIntroduced = errors.New("DATA before PEERID")
	errOtherPeer     = errors.New("introduces itself as another peer")
	errOwnIdentity   = errors.New("introduces itself with our own identity")
)

const writeSize = 64 << 10 // bytes written at a time; each such piece is progress

func (t *Transport) newChannel() *channel {
	c := &channel{t: t, wake: make(chan struct{}, 1)}
	c.touch()
	return c
}

func (c *channel) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *channel) touch() { c.active.Store(int64(time.Since(c.t.epoch))) }

// idle returns for how long nothing was sent or received.
func (c *channel) idle() time.Duration {
	return time.Since(c.t.epoch) - time.Duration(c.active.Load())
}

// run lives as long as the channel.
func (c *channel) run(ctx context.Context) {
	defer c.finish()
	if c.conn == nil {
		conn, err := c.t.dial(ctx, c.to)
		if err != nil {
			c.fail(fmt.Errorf("connect: %w", err))
			return
		}
		c.conn = conn
	}
	defer c.conn.Close()
	stop := context.AfterFunc(ctx, func() { c.fail(ErrStopped) })
	defer stop()
	if err := c.secure(ctx); err != nil {
		c.fail(fmt.Errorf("TLS handshake: %w", err))
		return
	}
	c.touch()
	read := make(chan struct{})
	go func() {
		defer close(read)
		c.read()
	}()
	c.write()
	<-read
}

func (t *Transport) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if t.cfg.Dial != nil {
		return t.cfg.Dial(ctx, to)
	}
	d := net.Dialer{Timeout: t.cfg.ConnectTimeout}
	if t.cfg.BindToIdentity {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(t.cfg.Identity.AddrPort().Addr(), 0))
	}
	return d.DialContext(ctx, "tcp", to.String())
}

// secure sets the options of the socket and, if the network uses it, wraps it in TLS.
func (c *channel) secure(ctx context.Context) error {
	if tcp, ok := c.conn.(*net.TCPConn); ok {
		if err := errors.Join(tcp.SetKeepAlive(!c.t.cfg.NoKeepAlive), tcp.SetNoDelay(true)); err != nil {
			return err
		}
	}
	if c.t.cfg.TLS == nil {
		return nil
	}
	secured := tls.Server(c.conn, c.t.cfg.TLS)
	if c.called != "" {
		secured = tls.Client(c.conn, c.t.cfg.TLS)
	}
	ctx, cancel := context.WithTimeout(ctx, c.t.cfg.TLSTimeout)
	defer cancel()
	if err := secured.HandshakeContext(ctx); err != nil {
		return err
	}
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	c.conn = secured
	return nil
}

// fail ends the channel; the first reason is kept.
func (c *channel) fail(err error) {
	c.t.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.detach()
	conn := c.conn
	c.t.mu.Unlock()
	if conn != nil {
		conn.Close() // not under the lock: TLS has a last word to send
	}
	c.signal()
}

// detach takes the channel away from its peer: nothing more is queued on it. The lock is held.
func (c *channel) detach() {
	if p := c.peer; p != nil {
		if p.primary == c {
			p.primary = nil
		}
		if p.secondary == c {
			p.secondary = nil
		}
	}
}

// finish is the end of the channel: unsent messages are kept for another attempt or dropped.
func (c *channel) finish() {
	t := c.t
	t.mu.Lock()
	defer t.mu.Unlock()
	c.detach()
	if c.called == "" {
		n := t.incoming[c.from]
		n.all--
		t.accepted--
		if c.unintroduced {
			n.unintroduced--
		}
		if n.all == 0 {
			delete(t.incoming, c.from)
		}
	}
	c.logEnd()
	t.signal() // a channel is free
	p := c.peer
	if p == nil {
		return
	}
	p.stats.Channels--
	if c.err != nil {
		p.stats.LastError = c.err.Error()
	}
	if len(c.queue) == 0 {
		return
	}
	now := time.Now()
	var keep []*outgoing
	for _, out := range c.queue {
		out.tries++
		out.lastTry = p.stats.LastAttempt
		switch o := out.opts; {
		case errors.Is(c.err, ErrStopped):
			t.drop(p, out, "stopping")
		case o.Expires.IsZero(), out.tries > o.MaxRetries, !socketFault(c.err):
			t.drop(p, out, fmt.Sprintf("attempt %d: %v", out.tries, c.err))
		case !now.Before(o.Expires):
			t.drop(p, out, "expired")
		default:
			keep = append(keep, out)
		}
	}
	p.queue = append(keep, p.queue...)
	p.failed = true
	if p.stats.LastAttempt.IsZero() {
		p.stats.LastAttempt = now // the other's connection broke: wait as if it were ours
	}
	t.plan(p)
	t.route(p, now) // a secondary may be there
}

// socketFault says whether another attempt is worth while; a peer that fails the handshake of
// TLS will fail it again.
func socketFault(err error) bool {
	var record tls.RecordHeaderError
	var alert tls.AlertError
	var cert *tls.CertificateVerificationError
	return !errors.As(err, &record) && !errors.As(err, &alert) && !errors.As(err, &cert)
}

func (c *channel) logEnd() {
	log := c.t.log.With("address", c.remote)
	if c.peer != nil {
		log = log.With("peer", c.peer.id)
	}
	var fault *lcap.FrameError
	malformed := errors.As(c.err, &fault) && (fault.Err == nil || errors.Is(fault.Err, io.ErrUnexpectedEOF))
	switch {
	case c.err == nil:
		log.Debug("channel closed")
	case errors.Is(c.err, ErrStopped):
		log.Debug("channel closed", "err", c.err)
	case malformed || errors.Is(c.err, errNotIntroduced) || errors.Is(c.err, errOtherPeer) ||
		errors.Is(c.err, errOwnIdentity) || errors.Is(c.err, lockss.ErrPeerID):
		log.Warn("channel aborted: the other side does not keep the protocol", "err", c.err)
	default:
		log.Info("channel broke", "err", c.err)
	}
}

// write introduces us and sends what is queued until the channel has ended, or has been idle.
func (c *channel) write() {
	hello := lcap.AppendFrame(nil, lcap.Frame{Op: lcap.FramePeerID, Payload: []byte(c.t.cfg.Identity)})
	if err := c.send(hello); err != nil {
		c.fail(fmt.Errorf("send introduction: %w", err))
		return
	}
	idle := time.NewTimer(c.t.cfg.IdleTime)
	defer idle.Stop()
	for {
		out, rest := c.next()
		switch {
		case out != nil:
			if err := c.send(out.frame); err != nil {
				c.fail(fmt.Errorf("send %s: %w", out.what, err))
				return
			}
			c.sent(out)
		case rest > 0:
			idle.Reset(rest)
			select {
			case <-c.wake:
			case <-idle.C:
			}
		case c.drains.Load():
			half, ok := c.conn.(interface{ CloseWrite() error })
			if !ok || half.CloseWrite() != nil || c.conn.SetReadDeadline(time.Now().Add(c.t.cfg.DrainTime)) != nil {
				c.conn.Close()
			}
			return
		default:
			c.conn.Close()
			return
		}
	}
}

// next returns the message to send, or for how long the channel may yet be idle, or neither
// when nothing is to be sent any more: the channel broke, or the other side has ended its
// output and got what there was, or it was idle and drains.
func (c *channel) next() (out *outgoing, rest time.Duration) {
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	switch {
	case c.err != nil:
		return nil, 0
	case len(c.queue) > 0:
		return c.queue[0], 0
	case c.eof:
		return nil, 0
	}
	if rest = c.t.cfg.IdleTime - c.idle(); rest > 0 {
		return nil, rest
	}
	// Idle: the output ends here, the input may still bring something.
	c.detach()
	c.drains.Store(true)
	return nil, 0
}

// send writes b; a connection that takes nothing for longer than the idle time is hung.
func (c *channel) send(b []byte) error {
	for len(b) > 0 {
		if err := c.conn.SetWriteDeadline(time.Now().Add(c.t.cfg.IdleTime + time.Second)); err != nil {
			return err
		}
		n, err := c.conn.Write(b[:min(len(b), writeSize)])
		b = b[n:]
		if n > 0 {
			c.touch()
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("hung: nothing accepted for %v: %w", c.t.cfg.IdleTime+time.Second, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sent removes out, which has left, from the queue.
func (c *channel) sent(out *outgoing) {
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	c.queue[0] = nil
	c.queue = c.queue[1:]
	p := c.peer
	c.t.count(p, out, -1)
	p.failed = false
	p.stats.Sent++
	p.stats.SentBytes += int64(len(out.frame))
	p.stats.LastSent = time.Now()
	c.t.log.Debug("sent", "peer", p.id, "message", out.what, "bytes", len(out.frame))
}

// Read reads from the connection for the frame reader, noting traffic.
func (c *channel) Read(b []byte) (int, error) {
	n, err := c.conn.Read(b)
	if n > 0 {
		c.touch()
		if c.drains.Load() {
			if err := c.conn.SetReadDeadline(time.Now().Add(c.t.cfg.DrainTime)); err != nil {
				return n, err
			}
		}
	}
	if c.t.cfg.TLS != nil && (errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)) {
		err = io.EOF // a peer on an old runtime cannot close half of TLS (lcap-v3.md 2.6)
	}
	return n, err
}

// read takes frames until the input ends or breaks.
func (c *channel) read() {
	r := lcap.NewFrameReader(c, c.t.cfg.MaxMessageSize)
	r.AllowUnknown = c.t.cfg.NoUnknownAbort
	for {
		h, err := r.NextHeader()
		if err == nil {
			err = c.frame(r, h)
		}
		if err == nil {
			continue
		}
		switch {
		case err == io.EOF:
			c.t.mu.Lock()
			c.eof = true
			// Messages given from now on deserve a connection of which both halves live.
			c.detach()
			c.t.mu.Unlock()
			c.signal()
		case c.drains.Load() && errors.Is(err, os.ErrDeadlineExceeded):
			// Nothing more came: the other side has nothing to say.
		default:
			c.fail(err)
		}
		return
	}
}

// frame takes one frame.
func (c *channel) frame(r *lcap.FrameReader, h lcap.FrameHeader) error {
	if h.Op == lcap.FramePeerID {
		text, err := r.Payload(h)
		if err != nil {
			return err
		}
		id, err := lockss.FindPeerID(string(text))
		if err != nil {
			return err
		}
		return c.introduce(id)
	}
	c.t.mu.Lock()
	p := c.peer
	c.t.mu.Unlock()
	if p == nil {
		return errNotIntroduced
	}
	if h.Op != lcap.FrameData {
		return nil
	}
	if h.Proto != lcap.ProtoV3 {
		c.t.log.Debug("message of an unknown protocol dropped", "peer", p.id, "protocol", h.Proto)
		return nil // the reader skips it
	}
	c.t.mu.Lock()
	allowed := p.received.allow(c.t.cfg.ReceiveRate, time.Now())
	c.t.mu.Unlock()
	if !allowed {
		c.t.log.Debug("message dropped: above the rate for receiving", "peer", p.id)
		return nil
	}
	if h.Length > c.t.cfg.SpoolSize {
		return c.receiveLarge(p, r, h)
	}
	payload, err := r.Payload(h)
	if err != nil {
		return err
	}
	c.deliver(p, payload)
	return nil
}

// introduce takes the identity of the other side.
func (c *channel) introduce(id lockss.PeerID) error {
	t := c.t
	if id == t.cfg.Identity {
		return errOwnIdentity
	}
	t.mu.Lock()
	if c.peer != nil && c.peer.id != id {
		defer t.mu.Unlock()
		return fmt.Errorf("%w: as %s, not %s", errOtherPeer, id, c.peer.id)
	}
	first := !c.introduced
	c.introduced = true
	if c.unintroduced {
		c.unintroduced = false
		t.incoming[c.from].unintroduced--
	}
	if c.peer == nil {
		p := t.peer(id)
		c.peer = p
		p.stats.Channels++
		switch {
		case c.drains.Load() || c.err != nil: // only read from
		case p.primary == nil:
			p.primary = c
		case p.secondary == nil:
			p.secondary = c
		}
		p.failed = p.failed && p.primary == nil
		t.route(p, time.Now())
	}
	t.mu.Unlock()
	if first && t.cfg.Introduced != nil {
		t.cfg.Introduced(id)
	}
	return nil
}

// receiveLarge lets a message arrive in a file, however slowly, and takes it into memory when
// it is whole and no other large one is there.
func (c *channel) receiveLarge(p *peer, r *lcap.FrameReader, h lcap.FrameHeader) error {
	f, err := os.CreateTemp(c.t.cfg.SpoolDir, "armarium-message-*")
	if err != nil {
		c.t.log.Error("no room for a large message: dropped", "peer", p.id, "bytes", h.Length, "err", err)
		return nil
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil { // the open file is enough, and cannot be left behind
		c.t.log.Warn("spool file stays", "path", f.Name(), "err", err)
	}
	w := &spool{t: c.t, f: f}
	defer w.free()
	if _, err := io.Copy(w, r); err != nil {
		return err
	}
	if w.err != nil {
		c.t.log.Error("no room for a large message: dropped", "peer", p.id, "bytes", h.Length, "err", w.err)
		return nil
	}
	c.t.large.Lock()
	defer c.t.large.Unlock()
	payload := make([]byte, h.Length)
	if _, err := f.ReadAt(payload, 0); err != nil {
		c.t.log.Error("large message lost: dropped", "peer", p.id, "bytes", h.Length, "err", err)
		return nil
	}
	c.deliver(p, payload)
	return nil
}

// spool writes to a file as long as that works and swallows the rest: a full disk must not end
// the channel.
type spool struct {
	t   *Transport
	f   *os.File
	n   int64
	err error
}

func (s *spool) Write(b []byte) (int, error) {
	if s.err != nil {
		return len(b), nil
	}
	s.n += int64(len(b))
	if s.t.spool.Add(int64(len(b))) > s.t.cfg.MaxMessageSize+maxSpool {
		s.err = errors.New("too many large messages at once")
		return len(b), nil
	}
	_, s.err = s.f.Write(b)
	return len(b), nil
}

func (s *spool) free() { s.t.spool.Add(-s.n) }

// deliver decodes a message and hands it on. One that cannot be read is dropped; the channel
// stays (lcap-v3.md 4.2).
func (c *channel) deliver(p *peer, payload []byte) {
	m, err := lcap.Decode(payload)
	c.t.mu.Lock()
	if err == nil {
		p.stats.Received++
		p.stats.LastReceived = time.Now()
	} else {
		p.stats.Refused++
	}
	p.stats.RecvBytes += int64(len(payload))
	c.t.mu.Unlock()
	if err != nil {
		c.t.log.Warn("message dropped", "peer", p.id, "err", err)
		return
	}
	c.t.log.Debug("received", "peer", p.id, "message", m.Opcode, "bytes", len(payload), "au", m.AU, "poll", m.Key)
	c.t.cfg.Receive(p.id, m)
}
