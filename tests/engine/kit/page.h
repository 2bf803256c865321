/*
 * page.h: page tables: of 64-bit entries (4-level in long, PAE in prot), and
 * 32-bit ones (prot). All tables lie in memory that is mapped to itself.
 */
#ifndef KIT_PAGE_H
#define KIT_PAGE_H

#include "kit/kit.h"

void page_init(void);

/* A fresh zeroed page (4 KiB-aligned); its address is its physical one. */
void *page_new(void);
/* Several, aligned to their size (a power of two pages). */
void *page_new_aligned(word size);

/* The entry that maps va at a level: 1 page table, 2 page directory, 3 PDPT, 4 PML4. Tables on the way are made, with
 * all rights. */
uint64_t *entry(word va, unsigned level);
void map(word va, word pa, uint64_t flags);                       /* 4 KiB, and INVLPG */
void map_large(word va, word pa, uint64_t flags, unsigned level); /* 2 MiB or 1 GiB */
void unmap(word va);
/* A second address space, a copy in which the tables that lead to va are its own: its CR3. */
word page_space(word va);
/* The address space that entry() and map() work on: a CR3 without a PCID. It need not be the one that is loaded. */
void page_select(word cr3);

/* Makes user_context() work: USER_CODE, USER_STACK and USER_DATA are mapped to the same physical addresses. */
void user_init(void);
/* One more such page. */
void user_page(word va);
/* Paging with 64-bit entries, as entry() and map() want it: on in long, PAE in prot. */
void paging_64(void);

#ifndef __x86_64__
void paging_32(void);
void paging_off(void);
uint32_t *entry32(word va, unsigned level);
void map32(word va, word pa, uint32_t flags);
#endif

#endif
