//! What the rooms of the platform ask of each other. Each trait is a port: one room offers it, others use it,
//! and the binary wires them. Intent goes down through [`Node`], observation comes up through [`Node::observe`].

mod certificates;
mod hosts;
mod maintenance;
mod node;
mod ports;

pub use certificates::{
    AcmeService, CertificateDefect, CertificateFacts, CertificateOrder, Certifier, ChallengeAnswer, ChallengeDoor,
    DnsQuestion, DnsSeen, HostnameRow, HostnameView, IssueError, IssuedCertificate, OpenCertificate, OpenHostname,
    SealedCertificate,
};
pub use hosts::{BadHostRequest, HostCertificate, HostCertifier, HostRequest};
pub use maintenance::{MaintenanceNotice, MaintenanceView};
pub use node::{
    ExecEvent, ExecInput, ExecReply, ExecRequest, ExecSession, GuestProcess, GuestReport, Launch, ListenSocket, Node,
    NodeError, NodeView, StopRequest, TerminalSize,
};
pub use ports::{
    CatalogFeed, Drain, EdgeView, Idleness, ImageError, ImageResolver, ImagesInUse, LogFilter, LogQuery, LogSink, Nap,
    PullCredentials, RegistryAccess, RegistryRights, ResolvedImage, Rootfs, RootfsSource, Wake,
};
