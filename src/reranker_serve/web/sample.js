/** A set to begin with: what a search by keywords found in a shop's help pages, in its order. */

export const SAMPLE = {
  query: "Can I return shoes that I have already worn?",
  documents: [
    "Our shoes are worn by runners in more than forty countries. We have made them since 1974.",
    "How do I return an order? Open it under My orders, choose Return, and print the label. Drop the parcel at any post office.",
    "Worn soles? Our workshop resoles boots and shoes from 49 euros. It takes two weeks.",
    "You may return anything within 30 days. Items must be unused and in their box. Footwear that shows signs of wear outdoors cannot be taken back, unless it has a fault.",
    "Shoes and boots for children: choose one size larger than worn at present.",
    "Gift cards never expire and can be used in all shops, but they cannot be returned.",
    "I have already paid, but my order is not shown. Payments by bank transfer take two working days to arrive.",
    "Faulty products can be sent back for two years, also after use. We repair or replace them, or return the price.",
    "Try them on at home: walk on carpet, not outside. As long as the soles are clean, you can still send the pair back.",
    "Delivery is free from 50 euros. Returns cost 3.90 euros, except in our shops, where they are free.",
    "Can I change the address after I have ordered? Yes, until the parcel has been handed to the carrier.",
    "Refunds arrive within five days after the parcel has reached us, by the way in which you paid.",
  ].map((text) => ({ text })),
};
