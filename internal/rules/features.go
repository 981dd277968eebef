package rules

// Features is what a kernel offers to rules and queues. Probe finds out.
type Features struct {
	NFTQueue     bool // nft's queue expression
	XTQueue      bool // the xtables target NFQUEUE inside an nft rule
	ExpectObject bool // a ct expectation object of size 0, which gives flows under NAT their sequence adjustment
	Conntrack    bool // queued packets bring their connection (NFQA_CT)
}
