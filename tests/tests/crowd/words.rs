//! What is refused is refused in words, and what is much is told in pages.

use anyhow::{Result, ensure};
use ebb_e2e::{
    ebb::{Ebb, EbbOptions},
    fake_filter::{FakeFilter, Identity},
    wait,
    world::{folder, wait_attached},
};
use ebb_proto::v1::{FilterReport, ListDrainsRequest, ListNodesRequest, ListenerCounts, UpstreamCounts};
use tonic::Code;

use crate::{Hostile, drain_of_node, names};

#[tokio::test]
async fn a_report_that_is_too_much_is_refused_in_words_that_status_repeats() -> Result<()> {
    let folder = folder()?;
    let ebb = Ebb::start(EbbOptions::in_folder(folder.path())).await?;
    let upstreams = (0..5000).map(|place| UpstreamCounts {
        address: place.to_string(),
        ..UpstreamCounts::default()
    });
    let upstreams = FilterReport {
        upstreams: upstreams.collect(),
        ..FilterReport::default()
    };
    let long = FilterReport {
        listeners: vec![ListenerCounts {
            name: "x".repeat(513),
            ..ListenerCounts::default()
        }],
        ..FilterReport::default()
    };
    for (report, words) in [
        (names(0, 4097), "listeners: 4097 in one report, at most 4096"),
        (upstreams, "upstreams: 5000 in one report, at most 4096"),
        (long.clone(), "listeners.name: longer than 512 bytes"),
    ] {
        let refused = Hostile::attach(ebb.socket(), 7, report).await;
        let status = refused.err().expect("refused");
        ensure!(
            status.code() == Code::InvalidArgument && status.message() == words,
            "{status:?}"
        );
        ensure!(ebb.log().contains(words), "{}", ebb.log());
    }
    // One that has attached is known from then on, and unknown.
    let mut vm = Hostile::attach(ebb.socket(), 7, names(0, 3)).await?;
    vm.answer(long).await?;
    let status = loop {
        if let Err(status) = vm.commands.message().await {
            break status;
        }
    };
    ensure!(status.message().contains("longer than 512 bytes"), "{status:?}");
    let shown = ebb.cli(&["status"]).await?;
    ensure!(
        shown
            .stdout
            .contains("hostile/0000000000000007: refused 0s ago: listeners.name: longer than 512 bytes"),
        "{}",
        shown.stdout
    );
    Ok(())
}

#[tokio::test]
async fn nodes_and_drains_come_in_pages() -> Result<()> {
    let folder = folder()?;
    let ebb = Ebb::start(EbbOptions::in_folder(folder.path())).await?;
    let ids = ["a", "b", "c"];
    let start = |(node, number): (&str, u64)| {
        let identity = Identity {
            node: node.to_owned(),
            process: number,
            epoch: number,
        };
        FakeFilter::start(ebb.socket(), identity, &["ingress"])
    };
    let _filters: Vec<FakeFilter> = ids.into_iter().zip(1..).map(start).collect();
    let mut client = ebb.client().await?;
    let mut drains = Vec::new();
    for node in ids {
        wait_attached(&mut client, node, 0).await?;
        drains.push(client.start(drain_of_node(Some(node), wait::PATIENCE)).await?.id);
    }
    let (mut nodes, mut pages) = (
        Vec::new(),
        ListNodesRequest {
            page_size: 2,
            ..ListNodesRequest::default()
        },
    );
    for expected in [2, 1] {
        let page = client.fleet_service.list_nodes(pages.clone()).await?.into_inner();
        ensure!(page.nodes.len() == expected, "{page:?}");
        ensure!(page.next_page_token.is_empty() == (expected == 1), "{page:?}");
        nodes.extend(page.nodes.into_iter().map(|node| node.id));
        pages.page_token = page.next_page_token;
    }
    ensure!(nodes == ids, "{nodes:?}");
    let (mut listed, mut pages) = (
        Vec::new(),
        ListDrainsRequest {
            page_size: 2,
            ..ListDrainsRequest::default()
        },
    );
    for expected in [2, 1] {
        let page = client
            .drain_service
            .list_drains(pages.clone())
            .await?
            .into_inner();
        ensure!(page.drains.len() == expected, "{page:?}");
        listed.extend(page.drains.into_iter().map(|drain| drain.id));
        pages.page_token = page.next_page_token;
    }
    ensure!(listed == drains && pages.page_token.is_empty(), "{listed:?}");
    pages.page_token = "no page".to_owned();
    let refused = client.drain_service.list_drains(pages).await;
    ensure!(
        refused.is_err_and(|status| status.code() == Code::InvalidArgument),
        "a token of no page"
    );
    Ok(())
}
