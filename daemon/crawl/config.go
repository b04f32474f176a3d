package crawl

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"time"

	"armarium/daemon/au"
	"armarium/daemon/lockss"
)

// Config says how the node crawls.
type Config struct {
	Units *au.Registry // required

	// Done is called when a crawl has ended and its state is durable, on the crawl's goroutine,
	// after the unit's crawl lock was let go; not for repairs. nil: nobody is told.
	Done func(Result)
	// TLS holds the certificate authorities; nil: those of the system.
	TLS *tls.Config
	// Dial opens connections; nil: the network, from FromAddr.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	Log  *slog.Logger // nil: discard

	// When crawls start (crawl.md 2).
	Enabled          bool          `prop:"org.lockss.crawler.enabled" default:"true"`
	StarterEnabled   bool          `prop:"org.lockss.crawler.starterEnabled" default:"true"`
	StartDelay       time.Duration `prop:"org.lockss.crawler.startCrawlsInitialDelay" default:"2m"`
	StartInterval    time.Duration `prop:"org.lockss.crawler.startCrawlsInterval" default:"1h"`
	MaxCrawls        int           `prop:"org.lockss.crawler.threadPool.max" default:"15"` // at a time
	StartRate        lockss.Rate   `prop:"org.lockss.crawler.newContentStartRate" default:"1/730"`
	UnitRate         lockss.Rate   `prop:"org.lockss.crawler.maxNewContentRate" default:"1/18h"`              // starts of one unit
	RegistryRate     lockss.Rate   `prop:"org.lockss.crawler.maxPluginRegistryNewContentRate" default:"1/2h"` // starts of one registry
	RegistryInterval time.Duration `prop:"org.lockss.plugin.registries.crawlInterval" default:"1d"`           // of registries
	Restart          bool          `prop:"org.lockss.crawler.restartAfterCrash" default:"true"`               // crawls that a crash ended come early
	Order            string        `prop:"org.lockss.crawler.crawlOrder" default:"CrawlDate"`                 // or CreationDate
	MaxDepth         int           `prop:"org.lockss.crawler.maxCrawlDepth" default:"1000"`                   // links from a start URL
	RefetchEmpty     bool          `prop:"org.lockss.crawler.refetchEmptyFiles" default:"false"`              // whatever their depth
	ExcludedCache    int           `prop:"org.lockss.crawler.excludedCacheSize" default:"1000"`               // URLs
	GloballyExcluded string        `prop:"org.lockss.crawler.globallyExcludedUrlPattern" default:""`          // regular expression
	ParseOnPermFail  bool          `prop:"org.lockss.crawler.parseOnPermFail" default:"true"`                 // stored content of URLs refused
	PermissionBuffer int           `prop:"org.lockss.permissionBuf.max" default:"524288"`                     // bytes of a page that are searched
	LicenseTypes     []string      `prop:"org.lockss.creativeCommonsPermission.validLicenseTypes" default:"by;by-sa;by-nc;by-nd;by-nc-sa;by-nc-nd"`
	LicenseVersions  []string      `prop:"org.lockss.creativeCommonsPermission.validLicenseVersions" default:"1.0;2.0;2.5;3.0;4.0"`
	PermittedHosts   []string      `prop:"org.lockss.crawler.globallyPermittedHosts" default:""`      // regular expressions: need no permission page
	PluginHosts      []string      `prop:"org.lockss.crawler.allowedPluginPermittedHosts" default:""` // hosts that a plugin may exempt

	// Requests (crawl.md 7, 8).
	RegistryFetchRate lockss.Rate   `prop:"org.lockss.plugin.registries.fetchRate" default:"20/10s"`
	RegistryProxy     string        `prop:"org.lockss.plugin.registries.crawlProxy" default:""`
	ConnectTimeout    time.Duration `prop:"org.lockss.crawler.timeout.connect" default:"60s"`
	DataTimeout       time.Duration `prop:"org.lockss.crawler.timeout.data" default:"30m"` // between bytes
	RetryCount        int           `prop:"org.lockss.crawler.retryCount" default:"3"`     // tries in all
	MaxRetryCount     int           `prop:"org.lockss.crawler.maxRetryCount" default:"10"`
	RetryDelay        time.Duration `prop:"org.lockss.crawler.retryDelay" default:"10s"`
	MinRetryDelay     time.Duration `prop:"org.lockss.crawler.minRetryDelay" default:"1s"`
	SendReferrer      bool          `prop:"org.lockss.crawler.sendReferrer" default:"true"`
	Headers           []string      `prop:"org.lockss.crawler.httpRequestHeaders" default:""` // "Name:value"; "Name:" removes
	FromAddr          string        `prop:"org.lockss.crawler.crawlFromAddr" default:""`      // address of this node
	ProxyEnabled      bool          `prop:"org.lockss.crawler.proxy.enabled" default:"false"`
	ProxyHost         string        `prop:"org.lockss.crawler.proxy.host" default:""`
	ProxyPort         int           `prop:"org.lockss.crawler.proxy.port" default:"8080"`
	AbortOnBadProxy   bool          `prop:"org.lockss.crawler.abortOnInvalidProxy" default:"true"`

	// Limits of our own; MaxFileSize, MaxCrawlSize, MaxURLTime and MaxCrawlTime of 0 are none.
	MaxURLLength     int           `prop:"org.armarium.crawler.maxUrlLength" default:"8192"`            // bytes
	MaxURLs          int           `prop:"org.armarium.crawler.maxUrls" default:"2000000"`              // of one unit
	MaxFileSize      int64         `prop:"org.armarium.crawler.maxFileSize" default:"0"`                // bytes
	MaxCrawlSize     int64         `prop:"org.armarium.crawler.maxCrawlSize" default:"0"`               // bytes received in one crawl
	MaxURLTime       time.Duration `prop:"org.armarium.crawler.maxUrlTime" default:"1d"`                // for one request and its body
	MaxCrawlTime     time.Duration `prop:"org.armarium.crawler.maxCrawlTime" default:"0"`               // for one crawl
	RepairPermission time.Duration `prop:"org.armarium.crawler.repairPermissionLifetime" default:"15m"` // a permission holds for repairs
}

// A Crawler crawls the units of a registry.
type Crawler struct {
	cfg       Config
	log       *slog.Logger
	transport *http.Transport
	limits    limiter
	excluded  *regexp.Regexp   // nil: nothing
	permitted []*regexp.Regexp // hosts
	pluginOK  []*regexp.Regexp // hosts

	mu       sync.Mutex
	running  map[lockss.AUID]*crawl
	repairs  map[*crawl]bool
	permits  map[lockss.AUID]*permits // of repairs
	requests []request
	due      []*au.Unit
	starts   events
	unit     map[lockss.AUID]events // starts
	wake     chan struct{}          // holds one token when something changed
}

// New checks the configuration, all of it, and makes a Crawler that does nothing until Run.
func New(c Config) (*Crawler, error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Units == nil {
		fault("no units")
	}
	for _, n := range []struct {
		name  string
		value int64
	}{
		{"MaxCrawls", int64(c.MaxCrawls)}, {"MaxDepth", int64(c.MaxDepth)}, {"PermissionBuffer", int64(c.PermissionBuffer)},
		{"ConnectTimeout", int64(c.ConnectTimeout)}, {"DataTimeout", int64(c.DataTimeout)}, {"StartInterval", int64(c.StartInterval)},
		{"RetryCount", int64(c.RetryCount)}, {"MaxRetryCount", int64(c.MaxRetryCount)}, {"MaxURLLength", int64(c.MaxURLLength)},
		{"MaxURLs", int64(c.MaxURLs)}, {"RegistryInterval", int64(c.RegistryInterval)},
	} {
		if n.value <= 0 {
			fault("%s is %d, want a positive number", n.name, n.value)
		}
	}
	compile := func(name, pattern string) *regexp.Regexp {
		re, err := regexp.Compile(pattern)
		if err != nil {
			fault("%s: %w", name, err)
		}
		return re
	}
	cr := &Crawler{
		running: map[lockss.AUID]*crawl{}, repairs: map[*crawl]bool{}, permits: map[lockss.AUID]*permits{},
		unit: map[lockss.AUID]events{}, wake: make(chan struct{}, 1),
	}
	if c.GloballyExcluded != "" {
		cr.excluded = compile("org.lockss.crawler.globallyExcludedUrlPattern", c.GloballyExcluded)
	}
	for _, p := range c.PermittedHosts {
		cr.permitted = append(cr.permitted, compile("org.lockss.crawler.globallyPermittedHosts", p))
	}
	for _, p := range c.PluginHosts {
		cr.pluginOK = append(cr.pluginOK, compile("org.lockss.crawler.allowedPluginPermittedHosts", p))
	}
	if c.Order != "CreationDate" {
		c.Order = "CrawlDate"
	}
	dial := c.Dial
	if dial == nil {
		d := net.Dialer{Timeout: c.ConnectTimeout}
		if c.FromAddr != "" {
			a, err := netip.ParseAddr(c.FromAddr)
			if err != nil {
				fault("org.lockss.crawler.crawlFromAddr: %w", err)
			} else {
				d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0))
			}
		}
		dial = d.DialContext
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	cr.cfg, cr.log = c, c.Log
	http1 := new(http.Protocols)
	http1.SetHTTP1(true)
	cr.transport = &http.Transport{
		Proxy: requestProxy,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &timedConn{Conn: conn, idle: c.DataTimeout}, nil
		},
		TLSClientConfig:        c.TLS.Clone(),
		TLSHandshakeTimeout:    c.ConnectTimeout,
		DisableCompression:     true, // Accept-Encoding is not sent, bodies are stored as received
		MaxIdleConnsPerHost:    c.MaxCrawls,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		Protocols:              http1,
	}
	return cr, nil
}

// A timedConn fails when nothing came or went for the time idle.
type timedConn struct {
	net.Conn
	idle time.Duration
}

func (c *timedConn) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.idle)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

// Write also gives a Read that already waits, on a connection used again, its whole time.
func (c *timedConn) Write(b []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.idle)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// hostPort says whether s is a proxy as crawl_proxy has it.
func hostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	return err == nil && host != "" && port != "" && strings.Trim(port, "0123456789") == ""
}
